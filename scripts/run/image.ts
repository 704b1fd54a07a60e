// Defaults of an image for command, environment, user, directory and stop signal: OCI image-spec, config.md.
import { Failure } from '../helpers/cli.ts';
import { readInRoot } from './command.ts';

/** Path in a root file system of the configuration of the image that it was unpacked from. */
export const imageFile = '/.image.json';

/** The part of an image configuration that a launch uses; missing values are empty. */
export interface ImageConfig {
  entrypoint: string[];
  command: string[];
  environment: string[];
  user: string | undefined;
  workdir: string | undefined;
  stopSignal: string | undefined;
}

/**
 * Reads the configuration that a root file system holds, as `ROOTFS/.image.json`: an OCI image configuration. Throws
 * Failure where it is not what the specification says, since the container may have changed it.
 */
export function readImageConfig(rootfs: string): ImageConfig {
  const text = readInRoot(rootfs, imageFile);
  const wrong = (what: string) =>
    new Failure(`${rootfs}${imageFile} is not an OCI image configuration: ${what}`);
  let config: Record<string, unknown> = {};
  if (text) {
    try {
      config = JSON.parse(text)?.config ?? {};
    } catch (error) {
      throw wrong((error as Error).message);
    }
  }
  const words = (name: string): string[] => {
    const value = config[name] ?? [];
    if (Array.isArray(value) && value.every((word) => typeof word === 'string' && !word.includes('\0')))
      return value;
    throw wrong(`${name} is not a list of strings`);
  };
  const word = (name: string): string | undefined => {
    const value = config[name] ?? '';
    if (typeof value === 'string' && !value.includes('\0')) return value || undefined;
    throw wrong(`${name} is not a string`);
  };
  return {
    entrypoint: words('Entrypoint'),
    command: words('Cmd'),
    environment: words('Env').filter((variable) => /^[^=]+=/.test(variable)),
    user: word('User'),
    workdir: word('WorkingDir'),
    stopSignal: word('StopSignal'),
  };
}
