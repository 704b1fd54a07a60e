// Networks of containers: a bridge, and for each container a pair of veth(4) interfaces, one end on the bridge, the
// other in its network namespace. docs/network.md explains it; plan.ts has the steps; here they are performed, one
// call of this project at a time.
import { closeSync, fstatSync, openSync } from 'node:fs';
import { Failure } from '../helpers/cli.ts';
import { lock } from '../helpers/lock.ts';
import { attempt, namespaceInode } from '../helpers/pids.ts';
import { findInPath, variable } from '../helpers/shell.ts';
import { perform, type Step } from '../helpers/steps.ts';
import type { Port } from './addresses.ts';
import { type Edit, type EtcName, hasHostRoot, performEdit, printEdit } from './files.ts';
import { type Attachment, type Facts, inodeOf, membersOf, readFacts, readInside } from './host.ts';
import {
  type Action,
  type Container,
  checkInternal,
  type Network,
  planAttach,
  planDetach,
  planLeave,
  planNetwork,
  planPublish,
  planRemoval,
  planSweep,
  type Wanted,
  type Wishes,
} from './plan.ts';
import type { NetworkTarget } from './target.ts';

/** What is locked: the host's network namespace itself. So each namespace that stands for a host has a lock of its own. */
const hostNamespace = '/proc/self/ns/net';

/**
 * Reads the facts while nobody else of this project changes them, and goes on to hold the lock during `work`. What takes
 * time in this process, `meanwhile`, is done while other programs are reading.
 */
async function locked<Result, Found = undefined>(
  work: (facts: Facts, found: Found) => Result | Promise<Result>,
  meanwhile: () => Found = () => undefined as Found,
): Promise<Result> {
  const { release } = await lock(hostNamespace);
  try {
    const reading = readFacts();
    reading.catch(() => {}); // what `meanwhile` throws comes first
    const found = meanwhile();
    return await work(await reading, found);
  } finally {
    release();
  }
}

const isEdit = (action: Action): action is Edit => 'edit' in action;

/** Performs what is planned. Returns the changes of files that were not possible. */
async function performAll(actions: Action[]): Promise<Edit[]> {
  const refused: Edit[] = [];
  for (const action of actions)
    if (!isEdit(action)) await perform([action]);
    else if (!performEdit(action)) refused.push(action);
  return refused;
}

/** What is planned, as steps that can be printed. */
const printed = (actions: Action[]): Step[] =>
  actions.flatMap((action) => (isEdit(action) ? printEdit(action) : [action]));

/** Plans and performs under the lock; again where an interface has gone meanwhile, as it does with its container. */
async function change<Result>(
  plan: (facts: Facts) => { actions: Action[]; result: Result },
): Promise<Result> {
  return locked(async (first) => {
    for (let facts = first, tries = 1; ; tries++, facts = await readFacts()) {
      const { actions, result } = plan(facts);
      try {
        await performAll(actions);
        return result;
      } catch (error) {
        if (tries === 3) throw error;
      }
    }
  });
}

/** The interfaces that containers have got, in the order in which they got them. */
export const readAttachments = (): Promise<Attachment[]> =>
  locked((facts) => membersOf(facts).map(({ isolated, noFiles, ...attachment }) => attachment));

/** The same of one process; `text` is what the user calls it. Throws Failure where there are none. */
export const listAttachments = (pid: number, text: string, bridge?: string): Promise<Attachment[]> =>
  locked((facts) => attachmentsOf(facts, pid, text, bridge));

/** What a network is like, or will be. Throws Failure for a bridge that is another's, or is not as wished. */
export const readNetwork = (wishes: Wishes): Promise<Network> =>
  locked((facts) => planNetwork(wishes, facts));

/** What a container got, and what the caller may want to say. */
export interface Attached {
  attachment: Attachment;
  network: Network;
  /** the firewall as it was before */
  rules: Facts['rules'];
  /** lines for the user: files that could not be changed */
  warnings: string[];
}

/**
 * Gives a container an interface, an address, routes, ports and names. To be called when it has its root directory;
 * whose root directory is the host's keeps its files. Throws Failure, and has then left nothing behind.
 */
export const attach = (wishes: Wishes, wanted: Wanted, find: () => NetworkTarget): Promise<Attached> =>
  locked(async (facts, target) => {
    const { pid, inode, name } = target;
    const network = await planNetwork(wishes, facts);
    // held open, so whoever gets this PID later is not mistaken for it
    const namespace = attempt(() => openSync(`/proc/${pid}/ns/net`, 'r'));
    if (namespace === undefined) throw new Failure(`${name} has ended`);
    try {
      if (fstatSync(namespace).ino !== inode) throw new Failure(`${name} has ended`);
      const paths = {
        namespace: `/proc/${process.pid}/fd/${namespace}`,
        hostNamespace: `/proc/${process.pid}/ns/net`,
      };
      const container = { ...target, ...readInside(pid), ...paths };
      const { actions, attachment } = planAttach(facts, network, withFiles(wanted, pid), container);
      const refused = await performAll(actions).catch(async (error) => {
        await performAll(planSweep(await readFacts()).actions).catch(() => {});
        throw error;
      });
      const warnings = refused
        .filter(({ edit, of }) => edit === 'resolv.conf' && of.pid === pid)
        .map(
          () =>
            `the /etc/resolv.conf of ${name} is the host's own, a symlink, or cannot be written: it stays as it is`,
        );
      return { attachment, network, rules: facts.rules, warnings };
    } finally {
      closeSync(namespace);
    }
  }, find);

const withFiles = (wanted: Wanted, pid: number) => ({
  ...wanted,
  noFiles: wanted.noFiles || hasHostRoot(pid),
});

/** The path of the network namespace of the shell that runs what is printed: that is `$$`. */
const shellNamespace = `/proc/${variable('$')}/ns/net`;

/** The steps of `attach`, with the addresses and names that are free now. */
export const printAttach = (wishes: Wishes, wanted: Wanted, find: () => NetworkTarget): Promise<Step[]> =>
  locked(async (facts, target) => {
    const { pid } = target;
    const paths = { namespace: `/proc/${pid}/ns/net`, hostNamespace: shellNamespace };
    const container = { ...target, ...readInside(pid), ...paths };
    const network = await planNetwork(wishes, facts);
    return printed(planAttach(facts, network, withFiles(wanted, pid), container).actions);
  }, find);

/**
 * The same for a container that is not there yet, which has nothing but its loopback. `pid` and `inode` are shell
 * variables: its PID, and the inode of its network namespace. `files`: what it is going to have in /etc.
 */
export async function printAttachNew(
  wishes: Wishes,
  wanted: Wanted,
  container: { name: string; pid: string; inode: string; files: Partial<Record<EtcName, string>> },
): Promise<Step[]> {
  const fresh: Container = {
    ...container,
    namespace: `/proc/${container.pid}/ns/net`,
    hostNamespace: shellNamespace,
    ...{ interfaces: ['lo'], hasRoute: false, hasRoute6: false },
  };
  return locked(async (facts) =>
    printed(planAttach(facts, await planNetwork(wishes, facts), wanted, fresh).actions),
  );
}

/** The attachments of a process, on one bridge or all; `text` is what the user calls it. Throws Failure where there are none. */
function attachmentsOf(facts: Facts, pid: number, text: string, bridge: string | undefined): Attachment[] {
  const inode = namespaceInode(pid, 'net');
  const own = membersOf(facts).filter(
    (one) => inodeOf(one.link) === inode && (bridge === undefined || one.bridge === bridge),
  );
  if (own.length === 0)
    throw new Failure(`${text} is on no bridge${bridge ? ` ${bridge}` : ''}: network.ts attach ${text}`);
  return own;
}

/** Takes away the interfaces of a container that runs, on one bridge or all, and all that went with them. */
export const detach = (pid: number, text: string, bridge?: string): Promise<void> =>
  change((facts) => ({
    actions: planDetach(facts, attachmentsOf(facts, pid, text, bridge)),
    result: undefined,
  }));
export const printDetach = (pid: number, text: string, bridge?: string): Promise<Step[]> =>
  locked((facts) => printed(planDetach(facts, attachmentsOf(facts, pid, text, bridge))));

/** Takes away what `attach` gave to a container that has ended, or is about to. */
export const leave = ({ link, bridge }: Pick<Attachment, 'link' | 'bridge'>): Promise<void> =>
  change((facts) => ({
    actions: planRemoval(facts, { links: [link], bridges: bridge ? [bridge] : [] }),
    result: undefined,
  }));

/** The same for all that a container with this network namespace had; it may have ended long ago. */
export const leaveAll = (inode: number): Promise<void> =>
  change((facts) => ({ actions: planLeave(facts, inode), result: undefined }));

/** Publishes more ports of a container, on the first of its bridges, or on the one that is named. */
export const publish = (pid: number, text: string, ports: Port[], bridge?: string): Promise<void> =>
  locked(async (facts) => perform(planMorePorts(facts, pid, text, ports, bridge)));
export const printPublish = (pid: number, text: string, ports: Port[], bridge?: string): Promise<Step[]> =>
  locked((facts) => planMorePorts(facts, pid, text, ports, bridge));

function planMorePorts(
  facts: Facts,
  pid: number,
  text: string,
  ports: Port[],
  bridge: string | undefined,
): Step[] {
  const [first] = attachmentsOf(facts, pid, text, bridge) as [Attachment];
  checkInternal(ports, facts.rules.internal.includes(first.bridge ?? ''));
  return planPublish(facts, first, ports);
}

/** Whether there can be networks of ours: only root makes them, and with these programs only. */
const canHaveNetworks = () =>
  process.getuid?.() === 0 && findInPath('ip') && (findInPath('nft') || findInPath('iptables'));

/** Removes what killed calls and ended containers have left of their networks. Returns what it was. */
export async function sweepNetworks(): Promise<string[]> {
  if (!canHaveNetworks()) return [];
  return change((facts) => {
    const { actions, found } = planSweep(facts);
    return { actions, result: found };
  });
}
/** The steps by which `sweepNetworks` removes them, for --dry-run. */
export const printSweep = async (): Promise<Step[]> =>
  canHaveNetworks() ? locked((facts) => printed(planSweep(facts).actions)) : [];
