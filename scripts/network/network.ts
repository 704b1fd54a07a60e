// Networks of containers: a bridge, and for each container a pair of veth(4) interfaces, one end on the bridge, the
// other in its network namespace. docs/network.md explains it; plan.ts has the steps; this file performs or prints them,
// one call of this project at a time.
import { closeSync, fstatSync, openSync } from 'node:fs';
import { Failure } from '../helpers/cli.ts';
import { lock } from '../helpers/lock.ts';
import { attempt } from '../helpers/pids.ts';
import { type Command, findInPath, sh } from '../helpers/shell.ts';
import { perform, type Step } from '../helpers/steps.ts';
import { type Edit, type EtcFile, performEdit, printEdit, textOf } from './files.ts';
import { type Facts, type Id, readFacts } from './host.ts';
import { type Action, leftovers, planAttach, planLeave, planSweep, type Request } from './plan.ts';
import type { NetworkTarget } from './target.ts';

/**
 * Takes the lock, reads the facts, and calls `work`. The lock is on the network namespace of this process, so that each
 * namespace that stands for a host has a lock of its own.
 */
async function locked<Result>(work: (facts: Facts) => Result | Promise<Result>): Promise<Result> {
  const { release } = await lock('/proc/self/ns/net');
  try {
    return await work(await readFacts());
  } finally {
    release();
  }
}

const isEdit = (action: Action): action is Edit => 'edit' in action;

/** A plan to be performed: commands of ip(8) that follow one another become one call of it. */
function inBatches(actions: Action[]): Action[] {
  const batched: Action[] = [];
  let batch: { run: Command; input: string } | undefined;
  for (const action of actions) {
    const [program, ...words] = 'run' in action ? action.run : [];
    if (program !== 'ip') {
      batched.push(action);
      batch = undefined;
      continue;
    }
    if (!batch) {
      batch = { run: sh`ip -batch -`, input: '' };
      batched.push(batch);
    }
    batch.input += textOf([words.map((word) => (word.includes(' ') ? `"${word}"` : word)).join(' ')]);
  }
  return batched;
}

/** Performs a plan. Returns the changes of files that could not be made. */
async function performAll(actions: Action[]): Promise<Edit[]> {
  const refused: Edit[] = [];
  for (const action of inBatches(actions))
    if (!isEdit(action)) await perform([action]);
    else if (!performEdit(action)) refused.push(action);
  return refused;
}

/** Plans from facts. */
export type Plan = (facts: Facts) => Action[] | Promise<Action[]>;

/** Plans and performs under the lock. Up to three times, since an interface disappears when its container ends. */
export const change = (plan: Plan): Promise<void> =>
  locked(async (first) => {
    for (let facts = first, tries = 1; ; tries++, facts = await readFacts()) {
      const actions = await plan(facts);
      try {
        await performAll(actions);
        return;
      } catch (error) {
        if (tries === 3) throw error;
      }
    }
  });

/** The steps of a plan, to be printed. `contentOf`: the text that a file will have by then; undefined: it has that now. */
export const print = (
  plan: Plan,
  contentOf: (file: EtcFile) => string | undefined = () => undefined,
): Promise<Step[]> =>
  locked(async (facts) =>
    (await plan(facts)).flatMap((action) =>
      isEdit(action) ? printEdit(action, contentOf(action.edit)) : [action],
    ),
  );

/** The attachments of all containers, in the order in which they were made. */
export const readAttachments = () => locked(({ attachments }) => attachments);

/**
 * Attaches a container that has its root directory already: interface, address, routes, ports and names. Files in the host's
 * root directory stay as they are. Returns also the firewall as it was before, and warnings about files that could not be
 * changed. Throws Failure; then nothing stays.
 */
export const attach = (request: Request, target: NetworkTarget) =>
  locked(async (facts) => {
    const { pid, inode, name } = target;
    // held open, so that a later process with this PID is not mistaken for it
    const namespace = attempt(() => openSync(`/proc/${pid}/ns/net`, 'r'));
    try {
      if (namespace === undefined || fstatSync(namespace).ino !== inode)
        throw new Failure(`${name} has ended`);
      const { actions, ...plan } = planAttach(facts, request, {
        ...target,
        namespace: `/proc/${process.pid}/fd/${namespace}`,
      });
      const refused = await performAll(actions).catch(async (error) => {
        await performAll(planSweep(await readFacts())).catch(() => {});
        throw error;
      });
      const warnings = refused
        .filter(({ edit }) => edit.name === 'resolv.conf')
        .map(
          () =>
            `the /etc/resolv.conf of ${name} is the host's own, a symlink, or cannot be written: it stays as it is`,
        );
      return { ...plan, rules: facts.rules, warnings };
    } finally {
      if (namespace !== undefined) closeSync(namespace);
    }
  });

/**
 * The steps of `attach`, with the addresses and names that are free now. For a container that is not there yet `pid` and
 * `inode`, of its network namespace, are shell variables, and `files` is what it is going to have in /etc.
 */
export const printAttach = (
  request: Request,
  target: { name: string; pid: Id; inode: Id },
  files: { [name in EtcFile['name']]?: string | undefined } = {},
): Promise<Step[]> =>
  print(
    (facts) => planAttach(facts, request, { ...target, namespace: `/proc/${target.pid}/ns/net` }).actions,
    ({ pid, name }) => (pid === target.pid ? files[name] : undefined),
  );

/** Removes all interfaces and rules of a network namespace, by its inode; it may not exist any more. */
export const leave = (inode: number): Promise<void> => change((facts) => planLeave(facts, inode));

/** Whether networks of ours can exist: only root makes them, with these programs. */
const canHaveNetworks = () =>
  process.getuid?.() === 0 && findInPath('ip') && (findInPath('nft') || findInPath('iptables'));

/** Removes what killed calls and ended containers have left of their networks. Returns what that was. */
export async function sweepNetworks(): Promise<string[]> {
  if (!canHaveNetworks()) return [];
  let found: string[] = [];
  await change((facts) => {
    found = leftovers(facts);
    return planSweep(facts);
  });
  return found;
}
/** The steps by which `sweepNetworks` removes them, for --dry-run. */
export const printSweep = async (): Promise<Step[]> => (canHaveNetworks() ? print(planSweep) : []);
