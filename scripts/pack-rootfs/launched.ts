// --manifest: what run.ts was given, by the words behind `--` or by the record of a container, as a manifest.
import { realpathSync } from 'node:fs';
import { scriptPath } from '../helpers/called.ts';
import { Failure, HelpNeeded, parseArguments, UsageError } from '../helpers/cli.ts';
import { readArgv } from '../helpers/containers.ts';
import { toJson } from '../helpers/output.ts';
import { attempt } from '../helpers/pids.ts';
import { type Reference, showReference } from '../images/reference.ts';
import { findGroups, findUser, type User, type UserChoice } from '../run/command.ts';
import { readImageConfig } from '../run/image.ts';
import { options } from '../run/options.ts';
import { defaultShell, findRootfs } from '../run/rootfs.ts';
import { addSandbox } from '../run/sandbox.ts';
import { planPod } from './kubernetes.ts';
import type { Launched } from './manifest.ts';
import { planJob } from './nomad.ts';
import { toYaml } from './yaml.ts';

/** The words of the container `name`. Its relative paths are those of the directory that it was started in. */
function recordedWords(name: string): string[] {
  const found = readArgv(name);
  if (!found)
    throw new Failure(
      `there is no record of how ${name} was started: run.ts keeps one with --detach, --label or --stop-signal; without it, repeat the arguments: ${scriptPath()} --manifest kubernetes --image IMAGE -- [OPTION...] ROOTFS [COMMAND...]`,
    );
  try {
    process.chdir(found.directory);
  } catch {
    throw new Failure(`${name} was started in ${found.directory}, which does not exist any more`);
  }
  return found.words;
}

/** The user by its numbers: without an entry in passwd(5) the group is 0. */
const withoutRootfs = ({ user, group = 0 }: UserChoice): User => ({
  uid: user as number,
  gid: group as number,
  groups: [],
  home: '/',
});

/**
 * What a manifest is made of. `name`: a container with a record; `words`: the words of run.ts. Throws UsageError for words
 * that run.ts would refuse, and Failure if names of users can't be looked up.
 */
function readLaunched(name: string | undefined, words: string[], image: Reference): Launched {
  if ((name === undefined) === (words.length === 0))
    throw new UsageError('--manifest takes either NAME, or the arguments of run.ts after --');
  const parsed = parseArguments(
    { options, operands: [1, 1], command: true },
    name === undefined ? words : recordedWords(name),
  );
  if (parsed.help || parsed.version)
    throw new HelpNeeded('--manifest takes options of run.ts for a container');
  const values = addSandbox(parsed.values);
  const [operand = '', ...command] = parsed.operands;
  const { user, groupAdd, entrypoint } = values;
  const rootfs = attempt(() => realpathSync(findRootfs(operand)));
  const config = rootfs === undefined ? undefined : readImageConfig(rootfs);
  const hasNames = [user?.user, user?.group, ...groupAdd].some((one) => typeof one === 'string');
  if (rootfs === undefined && hasNames)
    throw new Failure(`there is no ROOTFS ${operand} to look up names of users and groups in: give numbers`);
  if (entrypoint === undefined && command[0]?.startsWith('-'))
    throw new UsageError(
      `${command[0]} stands after ROOTFS, where COMMAND begins: put options of run.ts before ROOTFS`,
    );
  const saysNothing = command.length === 0 && entrypoint === undefined;
  const imageSaysNothing = config && config.entrypoint.length + config.command.length === 0;
  return {
    values,
    image: showReference(image),
    // run.ts would have started a shell
    command: rootfs !== undefined && saysNothing && imageSaysNothing ? [defaultShell(rootfs)] : command,
    user: user && (rootfs === undefined ? withoutRootfs(user) : findUser(rootfs, user)),
    groups: rootfs === undefined ? (groupAdd as number[]) : findGroups(rootfs, groupAdd),
  };
}

/** The engine that a manifest is for. Throws UsageError. */
export function parseManifest(text: string): 'kubernetes' | 'nomad' {
  if (text === 'kubernetes' || text === 'nomad') return text;
  throw new UsageError(`unknown kind of manifest: "${text}": choose kubernetes or nomad`);
}

/** Prints a manifest, and what it does not hold by `say`. `operands` and `rest` are those of pack-rootfs.ts. */
export function printManifest(
  kind: ReturnType<typeof parseManifest>,
  { image, json }: { image: Reference | undefined; json: boolean },
  operands: string[],
  rest: string[],
  say: (text: string) => void,
): number {
  if (operands.length > 1) throw new HelpNeeded(`one operand too many: ${operands[1]}`);
  if (!image) throw new UsageError('--manifest needs --image, its name in a registry: --image HOST/NAME:TAG');
  const launched = readLaunched(operands[0], rest, image);
  const { manifest, remarks } = kind === 'nomad' ? planJob(launched) : planPod(launched);
  for (const remark of remarks) say(`differs from run.ts: ${remark}`);
  const text = kind === 'nomad' || json ? toJson(manifest, 2) : toYaml(manifest);
  process.stdout.write(`${text}\n`);
  return 0;
}
