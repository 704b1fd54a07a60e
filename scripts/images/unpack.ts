// Unpacking. tar(1) runs confined: whatever the archive contains, tar writes only to the new root.
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { Failure } from '../helpers/cli.ts';
import { findProgram, runProgram, sh } from '../helpers/shell.ts';
import { perform, type Step } from '../helpers/steps.ts';
import { findTools, isRoot, runConfined, type Tools, toolWords } from './confine.ts';
import type { Attributes, TarInspector } from './inspector.ts';

/** Only the root of the first user namespace may make device nodes, user_namespaces(7). */
export const mayMakeDevices =
  isRoot && /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'utf8'));

/** How tar(1) is to restore owners, modes and extended attributes. */
export const tarOptions = isRoot
  ? sh`--numeric-owner --preserve-permissions --same-owner --xattrs --xattrs-include=*`
  : // a set-user-ID file that belongs to the user would run with the user's rights for everybody
    sh`--numeric-owner --no-same-permissions --no-same-owner`;

/**
 * Unpacks a tar archive into the directory `root`, as GNU tar does; as a user without root all files become the
 * user's. `checked` is the archive as the inspector passes it on. Returns the warnings of tar. Throws where something is
 * wrong, or what `interrupted` throws; `root` is to be thrown away then, and nothing writes to it any more. `tools` has
 * tar, if the caller has found it already.
 */
export async function unpack(
  checked: AsyncGenerator<Buffer>,
  inspector: TarInspector,
  root: string,
  interrupted: Promise<never>,
  tools?: Tools,
): Promise<string[]> {
  // the garbage here is buffers: with a small young generation V8 collects them early
  setFlagsFromString('--semi-space-growth-factor=1');
  const found = tools ?? (await findTar());
  // the inspector holds the first bytes back until it knows what tar has to strip
  const first = await Promise.race([checked.next(), interrupted]);
  async function* archive() {
    if (!first.done) yield first.value;
    yield* checked;
  }
  // / is the new root: absolute names and links need no change
  const words = sh`--extract --file=- --strip-components=${inspector.strip ?? 0} ${tarOptions} --absolute-names
    --delay-directory-restore`;
  const command = [...toolWords(found, 'tar'), ...words];
  const warnings = await runConfined(root, found, command, archive(), interrupted);
  // the mount point has changed the time of the root directory
  if (inspector.rootAttributes) await perform(planRoot(root, inspector.rootAttributes));
  return warnings;
}

/** This host's GNU tar, and other programs. Throws Failure if tar is another one. */
export async function findTar(...others: string[]): Promise<Tools> {
  const tar = findProgram('tar');
  const version = tar && (await runProgram(sh`${tar} --version`)).stdout;
  if (!version?.startsWith('tar (GNU tar)'))
    throw new Failure(
      'cannot find GNU tar: other tar programs do not restore all attributes of a root file system: install it',
    );
  return findTools('tar', ...others);
}

/** The steps that set mode, owner and time of the root directory as in the archive. */
export const planRoot = (root: string, { mode, uid, gid, mtime }: Attributes): Step[] => [
  ...(isRoot ? [{ run: sh`chown ${uid}:${gid} ${root}` }] : []),
  { run: sh`chmod ${(mode & (isRoot ? 0o7777 : 0o755)).toString(8)} ${root}` },
  { run: sh`touch -d @${mtime} ${root}` },
];
