// Defaults from an image for command, environment, user, working directory and stop signal: OCI image-spec, config.md.
import { Failure } from '../helpers/cli.ts';
import { imageFile } from '../images/image.ts';
import { parseUser, readInRoot, type UserChoice } from './command.ts';

/** The values of an image configuration that a launch uses. A missing list is empty. */
export interface ImageConfig {
  entrypoint: string[];
  command: string[];
  environment: string[];
  user: string | undefined;
  workdir: string | undefined;
  stopSignal: string | undefined;
}

/**
 * Reads the OCI image configuration in `ROOTFS/.image.json`. Without such a file all values are missing. Throws Failure
 * if the file does not follow the specification: a container may have written it.
 */
export function readImageConfig(rootfs: string): ImageConfig {
  const text = readInRoot(rootfs, `/${imageFile}`);
  const wrong = (what: string) =>
    new Failure(`${rootfs}/${imageFile} is not an OCI image configuration: ${what}`);
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

/** The user that an image names, or root. Throws Failure if the name is not valid. */
export function imageUser(rootfs: string, text = '0'): UserChoice {
  try {
    return parseUser(text);
  } catch (error) {
    throw new Failure(`User in ${rootfs}/${imageFile} is ${(error as Error).message}: choose one with -u`);
  }
}
