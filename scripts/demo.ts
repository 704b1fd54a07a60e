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
  demo.ts --pause
  demo.ts --lang zh

OPTIONS
* --pause      wait for a key between two chapters
* --lang LANG  language of the explanations: en (default) or zh
* --keep       keep the root file system in rootfs/
* -h, --help   print the usual options; --help all prints all of this
  --version    print name and version

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
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, existsSync, constants as fsConstants, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import { type Language, texts } from './demo/texts.ts';
import { scriptFile as script } from './helpers/called.ts';
import { findHierarchy, type Hierarchy, parent, processesIn, readHierarchies } from './helpers/cgroups.ts';
import { Failure, main, reason, UsageError } from './helpers/cli.ts';
import { missingPrograms } from './helpers/programs.ts';
import { rootfsFolder } from './helpers/rootfs.ts';
import { quote, runProgram, sh } from './helpers/shell.ts';
import { cut, widthOf, wrap } from './helpers/table.ts';
import { firstOf } from './helpers/target.ts';
import { readNumber } from './limit/counters.ts';
import { memoryFiles } from './limit/table.ts';

export const options = { pause: {}, lang: { parse: parseLanguage }, keep: {} } as const;

function parseLanguage(text: string): Language {
  if (Object.hasOwn(texts, text)) return text as Language;
  throw new UsageError(`--lang is one of ${Object.keys(texts).join(', ')}, not ${text}`);
}

const name = `demo-${process.pid}`;
const rootfs = join(rootfsFolder, name);
const shown = (path: string) => (relative('.', path).startsWith('..') ? path : relative('.', path));

const bold = (text: string) => (process.stdout.isTTY ? `\x1b[1m${text}\x1b[0m` : text);
const say = (text: string) => console.log(text);
/** The columns for text: those of the terminal, 100 for a file. */
const columns = () => (process.stdout.isTTY ? process.stdout.columns || 80 : 100);
/** A text in lines that fit, below a heading. */
const paragraph = (text: string) => wrap(text, columns() - 3).replace(/^/gm, '   ');
let chapters = 0;

/** Prints the heading of a chapter, an explanation, and the commands that do the same by hand. */
function chapter([title, text]: [title: string, text: string], label: string, byHand: string): void {
  say(`\n${bold(`${++chapters}. ${title}`)}\n${paragraph(text)}`);
  const indent = ' '.repeat(3 + widthOf(label));
  say(`   ${label}${byHand.trimEnd().replaceAll('\n', `\n${indent}`)}`);
}

/** Waits for a key. Throws Ended for q, Ctrl-C and Ctrl-D, and where the terminal is gone. */
async function waitForKey(text: string): Promise<void> {
  const { stdin } = process;
  say(`\n   [${text}]`);
  stdin.setRawMode(true).resume();
  const key = await new Promise((resolve) => {
    stdin.once('data', (bytes) => resolve(String(bytes)));
    for (const event of ['end', 'error', 'close']) stdin.once(event, () => resolve('q'));
  });
  stdin.pause();
  if (['q', '\x03', '\x04'].includes(String(key))) throw new Ended('ended by a key');
  stdin.setRawMode(false);
}

/** The user has ended the demo. */
class Ended extends Error {}

/** Prints a command as it is typed, and runs it. Returns its output; throws a Failure with its message if it fails. */
async function step(...argv: string[]): Promise<string> {
  say(`   $ ${argv.map((word) => quote(word.startsWith('/') ? shown(word) : word)).join(' ')}`);
  return capture(...argv);
}

async function capture(...argv: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await runProgram(argv);
  if (exitCode !== 0) throw new Failure(stderr.trim() || `${argv[0]} ended with ${exitCode}`);
  return stdout;
}

const show = (output: string | string[]) =>
  say(
    [output]
      .flat()
      .join('\n')
      .trimEnd()
      .split('\n')
      .map((line) => `   | ${cut(line, columns() - 5)}`)
      .join('\n'),
  );

/** What this host lacks to make a container, each with a remedy. */
async function findMissing(memory: Hierarchy | undefined): Promise<string[]> {
  if (process.getuid?.() !== 0) return ['root: the demo makes containers as root: sudo'];
  const programs = missingPrograms(sh`unshare nsenter setpriv mount umount pivot_root flock setsid tar ldd`);
  const missing = programs ? [programs] : [];
  for (const flag of ['mount', 'pid', 'uts', 'ipc', 'cgroup']) {
    const { exitCode, stderr } = await runProgram(sh`unshare --${flag} --fork true`);
    if (exitCode !== 0)
      missing.push(
        `a new ${flag} namespace: ${stderr.trim()}: this needs CAP_SYS_ADMIN, which sandboxes lack`,
      );
  }
  try {
    if (memory) accessSync(memory.mountPoint, fsConstants.W_OK);
    else
      missing.push(
        'the memory controller: no cgroup file system has it: mount -t cgroup2 cgroup2 /sys/fs/cgroup',
      );
  } catch (error) {
    missing.push(`a writable cgroup file system: ${reason(error)}`);
  }
  return missing;
}

/** A shell in a container that runs commands. It is a child of node:child_process, as both of its streams stay open. */
function startShell(...[command = '', ...words]: string[]) {
  const child = spawn(command, words, { stdio: ['pipe', 'pipe', 'inherit'] });
  const exit = once(child, 'exit');
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    /** Runs a command, and returns the lines of its output. Throws a Failure if the container ends. */
    async run(command: string): Promise<string[]> {
      child.stdin.write(`{ ${command}\n} 2>&1; echo "demo: done"\n`);
      for (const said: string[] = []; ; ) {
        const { value, done } = await lines.next();
        if (done) throw new Failure(`the container ${name} has ended: see the messages above`);
        if (value === 'demo: done') return said;
        said.push(value);
      }
    },
    async end(): Promise<void> {
      child.stdin.end();
      await exit;
    },
  };
}

/** A program that allocates 10 MB at a time, and prints the sum. */
const eater = `awk 'BEGIN {
  for (ten = "x"; length(ten) < 10^7;) ten = ten ten
  ten = substr(ten, 1, 10^7)
  for (;;) { hog[n] = ten n++; print n * 10 "mb"; fflush() } }'`;

await main(import.meta.url, { options, operands: [0, 0] }, async ({ keep, pause, lang = 'en' }) => {
  const t = texts[lang];
  if (pause && !(process.stdin.isTTY && process.stdout.isTTY))
    throw new UsageError('--pause waits for a key, which needs a terminal');
  const next = () => (pause ? waitForKey(t.pressKey) : undefined);
  const memory = findHierarchy(readHierarchies(), 'memory');
  const missing = await findMissing(memory);
  if (missing.length > 0 || !memory) throw new Failure(`this host lacks ${missing.join('; and ')}`);
  const readMounts = () => readFileSync('/proc/self/mountinfo', 'utf8');
  const mounts = readMounts();
  let shell: ReturnType<typeof startShell> | undefined;
  let pids: number[] = [];
  // a signal and the end of the demo come together where the terminal goes: the second waits for the first
  let cleaning: Promise<void> | undefined;
  const cleanUp = () => {
    cleaning ??= (async () => {
      if (pause && !process.stdin.destroyed) process.stdin.setRawMode(false);
      await shell?.end();
      if (!keep && existsSync(rootfs)) await capture(script('fetch-rootfs'), 'rm', name);
    })();
    return cleaning;
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => cleanUp().then(() => process.exit(128 + constants.signals[signal])));

  try {
    chapter(
      t.tarball,
      t.byHand,
      'curl -L https://github.com/ericchiang/containers-from-scratch/releases/download/v0.1.0/rootfs.tar.gz | tar -xz',
    );
    await step(script('fetch-rootfs'), 'host:', rootfs);
    show(await step('ls', '-C', '-T', '0', '-w', String(columns() - 5), rootfs));

    await next();
    chapter(t.chroot, t.byHand, `mount -t proc proc ${shown(rootfs)}/proc; chroot ${shown(rootfs)} ps aux`);
    const all = (await step(script('run'), '--isolate', 'chroot', rootfs, 'ps', 'aux')).trimEnd().split('\n');
    show([...all.slice(0, 4), t.more(all.length - 4)]);

    await next();
    chapter(
      t.namespaces,
      t.byHand,
      `unshare --pid --fork --mount-proc=${shown(rootfs)}/proc chroot ${shown(rootfs)} /bin/bash   # ${t.asArticle}
${shown(script('run'))} --dry-run ${shown(rootfs)}   # ${t.allSteps}`,
    );
    show(await step(script('run'), rootfs, '/bin/sh', '-c', 'ps aux; true'));

    await next();
    chapter(t.sides, t.byHand, `ps -e -o pid,ppid,pidns,args; grep NSpid /proc/PID/status`);
    say(`   $ ${shown(script('run'))} --name ${name} ${shown(rootfs)} /bin/bash &`);
    shell = startShell(script('run'), '--name', name, rootfs, '/bin/bash');
    show(await shell.run(`echo "${t.inside}"`));
    const cgroup = join(memory.mountPoint, parent, name);
    const first = firstOf(processesIn(cgroup));
    if (!first) throw new Failure(`no process in the cgroup of ${name}`);
    pids = [first.pid, first.ppid];
    show(t.outside(first.nsPids.join(' ')));
    show(t.holder(first.ppid));
    show(await step(script('ps')));

    await next();
    chapter(
      t.limit,
      t.byHand,
      await capture(script('limit-memory'), '--dry-run', String(first.pid), '100MB'),
    );
    show(await step(script('limit-memory'), String(first.pid), '100MB'));

    await next();
    chapter(t.eater, t.byHand, eater);
    const { oomKills } = memoryFiles[memory.version];
    const countKills = () => readNumber(join(cgroup, oomKills), 'oom_kill') ?? Number.NaN;
    const killsBefore = countKills();
    const lines = await shell.run(`${eater}\necho "exit code $?"`);
    const isKilled = lines.some((line) => /Killed|^exit code 137$/.test(line));
    const eaten = lines.filter((line) => /^\d+mb$/.test(line));
    show([...eaten, isKilled ? 'Killed' : t.notKilled].join(' '));
    show(lines.filter((line) => line.startsWith('exit code')));
    const kills = countKills() - killsBefore;
    if (!isKilled || kills < 1)
      throw new Failure(`the program was not killed for its memory: ${lines.slice(-3).join(' | ')}`);
    say(paragraph(t.kills(oomKills, kills)));
    show(await shell.run(`echo "${t.livesOn}"`));

    await next();
    chapter(t.back, t.byHand, await capture(script('stop'), '--dry-run', name));
  } catch (error) {
    if (!(error instanceof Ended)) throw error;
  } finally {
    await cleanUp();
  }

  if (readMounts() !== mounts) throw new Failure('the mounts have changed: compare /proc/self/mountinfo');
  const cgroups = readHierarchies().map(({ mountPoint }) => join(mountPoint, parent, name));
  const left = [...cgroups, ...pids.map((pid) => `/proc/${pid}`)].filter((path) => existsSync(path));
  if (left.length > 0) throw new Failure(`cgroups or processes are left: ${left.join(', ')}`);
  say(`   ${t.left}${keep ? t.kept(shown(rootfs)) : ''}`);
  say(bold(`\n${t.end}`));
  const { fetch, shell: tryShell, limits, net, inspect, runbook } = t.tries;
  say(`\n${t.next}`);
  for (const [remark, command] of [
    [fetch, `[ -d ${quote(shown(join(rootfsFolder, 'host')))} ] || ${shown(script('fetch-rootfs'))}`],
    [tryShell, `${shown(script('run'))} -m 100M --cpus 0.5 host`],
    [limits, `${shown(script('limit-pids'))} $$ 500`],
    [net, `${shown(script('run'))} --network bridge -p 8080:80 host`],
    [inspect, shown(script('ps'))],
    [runbook, 'less docs/runbook.md'],
  ])
    say(`   # ${remark}\n   ${command}`);
  return 0;
});
