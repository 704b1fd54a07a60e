#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
demo.ts: a Linux container by hand, from a tarball to the out-of-memory killer

USAGE
  demo.ts [OPTION...]

  The demo makes a root file system of this host's programs. It shows what
  chroot(1) isolates and what a PID namespace adds, and a container from inside
  and from outside. It limits the memory of the running container to 100 MB from
  outside, runs a program in it that allocates more, and restores the state of
  the host. It takes a few seconds.

EXAMPLES
  demo.ts
  demo.ts --keep

OPTIONS
* --keep       keep the root file system in rootfs/
* -h, --help   print the usual options; --help all: print all of this

CHANGES
  A root file system rootfs/demo-PID, a container demo-PID and its cgroups exist
  while the demo runs.

UNDO
  Nothing to undo: the last step checks that mounts, cgroups and processes are
  the same as before.

EXIT CODES
  0 done; 1 a step failed, or something is left; 2 wrong usage.

SEE ALSO
  fetch-rootfs.ts, run.ts, ps.ts, limit-memory.ts; chroot(2), namespaces(7),
  cgroups(7)
*/
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, realpathSync, rmdirSync, rmSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, extname, join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { findHierarchy, parent, processesIn, readHierarchies } from './helpers/cgroups.ts';
import { Failure, main } from './helpers/cli.ts';
import { missingPrograms } from './helpers/programs.ts';
import { rootfsFolder } from './helpers/rootfs.ts';
import { quote, runProgram } from './helpers/shell.ts';
import { firstOf } from './helpers/target.ts';
import { readNumber } from './limit/counters.ts';
import { memoryFiles } from './limit/table.ts';

export const options = { keep: {} } as const;

const name = `demo-${process.pid}`;
const rootfs = join(rootfsFolder, name);
const here = realpathSync(process.argv[1] ?? '.');
const script = (step: string) => join(dirname(here), step + extname(here));
const shown = (path: string) => (relative('.', path).startsWith('..') ? path : relative('.', path));

const bold = (text: string) => (process.stdout.isTTY ? `\x1b[1m${text}\x1b[0m` : text);
const say = (text: string) => console.log(text);
let chapters = 0;

/** Prints the heading of a chapter, an explanation, and the commands that do the same by hand. */
function chapter(title: string, text: string, byHand: string): void {
  say(`\n${bold(`${++chapters}. ${title}`)}\n${text.replace(/^/gm, '   ')}`);
  say(`   by hand:  ${byHand.trimEnd().replaceAll('\n', '\n             ')}`);
}

/** Prints the command of a script as it is typed, and runs it. Throws a Failure with its message if it fails. */
async function step(...argv: string[]): Promise<string> {
  const [command = '', ...words] = argv;
  say(
    `   $ ${[shown(script(command)), ...words.map((word) => (word.startsWith('/') ? shown(word) : word))].map(quote).join(' ')}`,
  );
  return capture(script(command), ...words);
}

async function capture(...argv: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await runProgram(argv);
  if (exitCode !== 0) throw new Failure(stderr.trim() || `${argv[0]} ended with ${exitCode}`);
  return stdout;
}

const show = (output: string) => say(output.trimEnd().replace(/^(.{0,100}).*$/gm, '   | $1'));

/** What this host lacks to make a container, each with a remedy. */
async function findMissing(): Promise<string[]> {
  if (process.getuid?.() !== 0) return ['root: the demo makes containers as root: sudo'];
  const missing: string[] = [];
  const tools = 'unshare nsenter setpriv mount umount pivot_root flock setsid tar ldd'.split(' ');
  const programs = missingPrograms(tools);
  if (programs) missing.push(programs);
  for (const flag of ['mount', 'pid', 'uts', 'ipc', 'cgroup']) {
    const { exitCode, stderr } = await runProgram(['unshare', `--${flag}`, '--fork', 'true']);
    if (exitCode !== 0)
      missing.push(
        `a new ${flag} namespace: ${stderr.trim()}: this needs CAP_SYS_ADMIN, which sandboxes lack`,
      );
  }
  const memory = findHierarchy(readHierarchies(), 'memory');
  if (!memory)
    missing.push(
      'the memory controller: no cgroup file system has it: mount -t cgroup2 cgroup2 /sys/fs/cgroup',
    );
  else {
    const probe = join(memory.mountPoint, `${parent}-probe-${process.pid}`);
    const { exitCode, stderr } = await runProgram(['mkdir', probe]);
    if (exitCode === 0) rmdirSync(probe);
    else missing.push(`a writable cgroup file system: ${stderr.trim()}`);
  }
  return missing;
}

/** The mounts of the host, and the cgroups of the demo. */
function hostState() {
  const cgroups = readHierarchies().flatMap(({ mountPoint }) =>
    readdirSync(mountPoint)
      .filter((entry) => entry.startsWith(parent))
      .flatMap((entry) =>
        readdirSync(join(mountPoint, entry))
          .filter((child) => child === name)
          .map((child) => join(mountPoint, entry, child)),
      ),
  );
  return { mounts: readFileSync('/proc/self/mountinfo', 'utf8'), cgroups: cgroups.join('\n') };
}

/**
 * A shell in a container that runs commands and answers line by line. It is a child of node:child_process, as both of
 * its streams stay open.
 */
class Shell {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;

  constructor(argv: string[]) {
    const [command = '', ...words] = argv;
    this.#child = spawn(command, words, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** Runs a command, and passes each line of its output to `onLine`. Throws a Failure if the container ends. */
  async do(command: string, onLine: (line: string) => void): Promise<void> {
    this.#child.stdin.write(`{ ${command}\n} 2>&1; echo "demo: done"\n`);
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Failure(`the container ${name} has ended: see the messages above`);
      if (value === 'demo: done') return;
      onLine(value);
    }
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, 'exit');
    this.#child.stdin.end();
    await exit;
  }
}

/** Programs that allocate 10 MB at a time, and print the sum. */
const eaters = {
  python3: `python3 -c '
hog = []
while True:
    hog.append(b"x" * 10**7)
    print(len(hog) * 10, "mb", sep="", flush=True)'`,
  awk: `awk 'BEGIN {
  for (ten = "x"; length(ten) < 10^7;) ten = ten ten
  ten = substr(ten, 1, 10^7)
  for (;;) { hog[n] = ten n++; print n * 10 "mb"; fflush() } }'`,
};

await main(import.meta.url, { options, operands: [0, 0] }, async ({ keep }) => {
  const missing = await findMissing();
  if (missing.length > 0) throw new Failure(`this host lacks ${missing.join('\nand ')}`);
  const memory = findHierarchy(readHierarchies(), 'memory');
  if (!memory) throw new Failure('no memory controller');
  const before = hostState();
  let shell: Shell | undefined;
  let pids: number[] = [];
  const cleanUp = async () => {
    await shell?.end();
    if (!keep) rmSync(rootfs, { recursive: true, force: true });
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => cleanUp().then(() => process.exit(128 + constants.signals[signal])));

  try {
    chapter(
      'A root file system is just a tarball',
      'Any tarball will do. This root file system is made of programs of this host, and needs no network.',
      'curl -L https://github.com/ericchiang/containers-from-scratch/releases/download/v0.1.0/rootfs.tar.gz | tar -xz',
    );
    await step('fetch-rootfs', 'host:', rootfs);
    say(`   $ ls ${shown(rootfs)}`);
    show(await capture('ls', '-C', '-w', '90', rootfs));

    chapter(
      'chroot: another root directory, and nothing else',
      'The command runs in the new root directory. But ps still shows every process of the host.',
      `mount -t proc proc ${shown(rootfs)}/proc; chroot ${shown(rootfs)} ps aux`,
    );
    const all = (await step('run', '--isolate', 'chroot', rootfs, 'ps', 'aux')).trimEnd().split('\n');
    show([...all.slice(0, 4), `... and ${all.length - 4} more`].join('\n'));

    chapter(
      'Namespaces: the container sees itself alone',
      'The same ps in new namespaces: it shows the shell, which is PID 1, and ps itself, and no other process.',
      `unshare --pid --fork --mount-proc=${shown(rootfs)}/proc chroot ${shown(rootfs)} /bin/bash   # as the article does
${shown(script('run'))} --dry-run ${shown(rootfs)}   # prints all steps of the command below`,
    );
    show(await step('run', rootfs, '/bin/sh', '-c', 'ps aux; true'));

    chapter(
      'The same process from both sides',
      'A shell waits in a container. In the container it is PID 1. On the host it is a process like any other.',
      `ps -e -o pid,ppid,pidns,args; grep NSpid /proc/PID/status`,
    );
    say(`   $ ${shown(script('run'))} --name ${name} ${shown(rootfs)} /bin/bash &`);
    shell = new Shell([script('run'), '--name', name, rootfs, '/bin/bash']);
    await shell.do('echo "inside, the shell is PID $$ on $(hostname)"', (line) => show(line));
    const first = firstOf(processesIn(join(memory.mountPoint, parent, name)));
    if (!first) throw new Failure(`no process in the cgroup of ${name}`);
    pids = [first.pid, first.ppid];
    show(`outside, it is NSpid: ${first.nsPids.join(' ')}`);
    show(`and PID ${first.ppid} is the unshare(1) that made its PID namespace: the two are easily confused`);
    show(await step('ps'));

    chapter(
      'A memory limit of 100 MB, from outside, while it runs',
      'The limit is a value in one file of a cgroup. The processes that it limits are PIDs in another file.',
      await capture(script('limit-memory'), '--dry-run', String(first.pid), '100MB'),
    );
    show(await step('limit-memory', String(first.pid), '100MB'));

    const eater = existsSync(join(rootfs, 'usr/bin/python3')) ? 'python3' : 'awk';
    chapter(
      'A program in the container wants more',
      `The program allocates 10 MB at a time until the kernel kills it. It is written in ${eater}:`,
      eaters[eater],
    );
    const files = memoryFiles[memory.version];
    const oomKills = () =>
      readNumber(join(memory.mountPoint, parent, name, files.oomKills), 'oom_kill') ?? Number.NaN;
    const killsBefore = oomKills();
    const lines: string[] = [];
    await shell.do(`${eaters[eater]}\necho "exit code $?"`, (line) => lines.push(line));
    const eaten = lines.filter((line) => /^\d+mb$/.test(line));
    const killed = lines.some((line) => line.includes('Killed')) || lines.includes('exit code 137');
    show(`${eaten.join(' ')} ${killed ? 'Killed' : '(not killed)'}`);
    show(lines.filter((line) => line.startsWith('exit code')).join('\n'));
    const kills = oomKills() - killsBefore;
    if (!killed || kills < 1)
      throw new Failure(`the program was not killed for its memory: ${lines.slice(-3).join(' | ')}`);
    say(
      `   ${files.oomKills} counts ${kills} oom_kill more than before: the kernel's OOM killer enforced the limit of this cgroup.`,
    );
    await shell.do('echo "the container lives on: its shell is still PID $$"', (line) => show(line));

    chapter(
      'Putting everything back',
      'The shell ends. It is PID 1: the kernel ends all processes of its PID namespace with it.',
      await capture(script('stop'), '--dry-run', name),
    );
  } finally {
    await cleanUp();
  }

  const after = hostState();
  const left = pids.filter((pid) => existsSync(`/proc/${pid}`));
  if (after.mounts !== before.mounts)
    throw new Failure('the mounts have changed: compare /proc/self/mountinfo');
  if (after.cgroups !== before.cgroups) throw new Failure(`cgroups are left: ${after.cgroups}`);
  if (left.length > 0) throw new Failure(`processes are left: ${left}`);
  say(
    `   mounts: the same; cgroups: the same; processes of the container: none left${keep ? `; kept: ${shown(rootfs)}` : ''}`,
  );
  say(bold('\nThe host is as it was.'));
  return 0;
});
