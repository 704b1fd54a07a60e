// How an engineer would pack a root file system by hand, for --dry-run.

import { type Command, quote, sh } from '../helpers/shell.ts';
import { explain, printCommand, type Step, toShell } from '../helpers/steps.ts';
import type { WholeContainer } from '../helpers/target.ts';
import type { ImageName } from '../images/write.ts';
import { type Compression, compressions, tarOptions } from './archive.ts';
import type { ImageOptions } from './image.ts';
import { pauseSteps } from './pause.ts';
import type { Source } from './source.ts';

/** What is to be made, see pack-rootfs.ts. */
interface Out {
  kind: string;
  path: string;
  compression: Compression;
  name?: ImageName;
}

/** A root file system packed by shell. A container is paused meanwhile, if one is given. */
export function planByHand(
  source: Source,
  container: WholeContainer | undefined,
  out: Out,
  config: ImageOptions,
  latestSeconds: number | undefined,
): string {
  const isTarball = out.kind === 'tarball';
  const file = isTarball ? out.path : `${stemOf(out)}.layer.tar`;
  const { command } = compressions[isTarball ? out.compression : 'none'];
  const tar = [
    ...sh`tar --create --file=- --directory=${source.printed.directory}`,
    ...sh`${tarOptions(latestSeconds, isTarball)} .`,
  ];
  // tar may run as a user of the container, who may not write to the host's files
  const reading = [
    '# a bind mount shows the root file system itself, without what is mounted below it',
    '# pack-rootfs.ts also confines tar in a chroot',
    [
      printCommand([...source.printed.enter, ...binding(source), ...tar]),
      ...(command ? [` | ${printCommand(command)}`] : []),
      ...(file === '-' ? [] : [` > ${quote(file)}`]),
    ].join(''),
    '',
  ].join('\n');
  const pausing = container
    ? explain(`${container.label} is paused meanwhile`, pauseSteps(container, true))
    : [];
  const thawing = container ? explain(`${container.label} goes on`, pauseSteps(container, false)) : [];
  const image = isTarball ? [] : planImage(out, file, config);
  return toShell(pausing) + reading + toShell([...thawing, ...image]);
}

/** What the names of files begin with that are made on the way to an image. */
const stemOf = ({ kind, path }: Out) => (kind === 'push' ? './image' : path);

/** The command that mounts the root directory over itself, before another one that comes after it. */
function binding({ printed: { directory, enter } }: Source): Command {
  if (!enter.includes('nsenter')) return sh`sh -ec ${'mount --bind "$0" "$0"; exec "$@"'} ${directory}`;
  const isTop = directory === '..';
  const steps = [
    ...(isTop ? ['mount --no-canonicalize --make-private .'] : []),
    'mount --no-canonicalize --bind . .',
    'exec "$@"',
  ];
  return sh`sh -ec ${steps.join('; ')} sh`;
}

/** The steps that make an image of a layer, by umoci(1) and skopeo(1). */
function planImage(out: Out, layer: string, config: ImageOptions): Step[] {
  const { kind, path, name } = out;
  const layout = kind === 'layout' ? path : `${stemOf(out)}.layout`;
  const image = `${layout}:${name?.tag ?? 'latest'}`;
  const each = (option: string, values: string[] | undefined) =>
    (values ?? []).flatMap((value) => [option, value]);
  const one = (option: string, value: string | undefined) => each(option, value === undefined ? [] : [value]);
  const { platform } = config;
  const words = [
    ...each('--config.entrypoint', config.entrypoint),
    ...each('--config.cmd', config.cmd),
    ...each('--config.env', config.env),
    ...one('--config.user', config.user),
    ...one('--config.workingdir', config.workdir),
    ...each('--config.label', config.label),
    ...each('--config.exposedports', config.expose),
    ...one('--config.stopsignal', config.stopSignal && `SIG${config.stopSignal}`),
    ...one('--os', platform?.os),
    ...one('--architecture', platform?.architecture),
  ];
  const base =
    config.base === undefined
      ? ''
      : `\nof --base ${quote(config.base)} only what differs would be in this layer`;
  const steps: Step[] = [
    {
      why: `an image of that layer; pack-rootfs.ts itself needs neither umoci nor skopeo${base}`,
      run: sh`umoci init --layout ${layout}`,
    },
    { run: sh`umoci new --image ${image}` },
    { run: sh`umoci raw add-layer --image ${image} ${layer}` },
    ...(words.length > 0 ? [{ run: sh`umoci config --image ${image} ${words}` }] : []),
    { remove: layer },
  ];
  if (kind === 'layout') return steps;
  const targets: Record<string, string> = {
    'docker-archive': `docker-archive:${path}${name?.full ? `:${name.full}` : ''}`,
    'oci-archive': `oci-archive:${path}:${name?.tag}`,
    push: `docker://${path}`,
  };
  return [...steps, { run: sh`skopeo copy oci:${image} ${targets[kind] as string}` }, { remove: layout }];
}
