#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
check-host.ts: check which scripts work on this host, and what is missing

USAGE
  check-host.ts [OPTION...] [SCRIPT...]

  SCRIPT  run, exec, network …: check only what these scripts depend on
          Without it, all of them.

  Prints what the host is, and for each script "works", "limited" (a part does
  not work) or "fails". For each missing thing it prints what does not work
  without it, and the command that installs or enables it. In a container it
  checks what works in that container.

EXAMPLES
  check-host.ts
  check-host.ts --all
  check-host.ts -q run limit-memory || exit 77     in a script
  check-host.ts --json | jq -r '.checks[] | select(.ok | not) | .remedy'

OPTIONS
* -a, --all     print also what is not missing, with versions and paths
* -q, --quiet   print nothing, only set the exit code
* --json        print a JSON object
                host (distribution, kernel, architecture, node, user, cgroups,
                container), scripts (script, state, because), checks (subject,
                name, ok, found, cost, remedy, needs, limits)
* -h, --help    print the usual options; --help all prints all of this
  --version     print name and version

CHANGES
  Nothing. Each test of the kernel runs in new namespaces, which end with it.
  The kernel may load modules for that (overlay, veth, nf_tables).

EXIT CODES
  0 each SCRIPT works or is limited; 1 one fails; 2 wrong usage.

SEE ALSO
  namespaces(7), cgroups(7), user_namespaces(7), run.ts
*/
import { existsSync, readlinkSync } from 'node:fs';
import { release, userInfo } from 'node:os';
import { checkCgroups, layoutOf } from './check-host/cgroups.ts';
import { type Check, judge, type Script, scripts, type Verdict } from './check-host/checks.ts';
import { checkKernel } from './check-host/kernel.ts';
import { checkPrograms } from './check-host/programs.ts';
import { readHierarchies } from './helpers/cgroups.ts';
import { Failure, main, UsageError } from './helpers/cli.ts';
import { didYouMean } from './helpers/messages.ts';
import { print, toJson } from './helpers/output.ts';
import { attempt, groupBy } from './helpers/pids.ts';
import { readOsRelease } from './helpers/programs.ts';
import { table } from './helpers/table.ts';

export const options = {
  all: { short: 'a' },
  quiet: { short: 'q' },
  json: {},
} as const;

/** What this host is. */
interface Host {
  distribution: string;
  kernel: string;
  architecture: string;
  node: string;
  user: string;
  /** the versions of cgroups that are mounted */
  cgroups: string;
  /** what tells that this process is in a container; null: nothing does */
  container: string | null;
}

/** Numbers of the kernel's first namespaces, include/linux/proc_ns.h. */
const firstNamespaces = { pid: 0xeffffffc, user: 0xeffffffd };

/** What tells that this process is in a container, as a phrase; null if it is in none. */
function containerSign(): string | null {
  for (const [name, number] of Object.entries(firstNamespaces)) {
    const link = attempt(() => readlinkSync(`/proc/self/ns/${name}`));
    if (link !== undefined && link !== `${name}:[${number}]`) return `in a ${name} namespace of its own`;
  }
  const file = ['/run/.containerenv', '/.dockerenv'].find((path) => existsSync(path));
  return file ? `${file} exists` : null;
}

function readHost(): Host {
  const uid = process.getuid?.() ?? 0;
  return {
    distribution: /^PRETTY_NAME="?([^"\n]*)/m.exec(readOsRelease())?.[1] ?? 'an unknown distribution',
    kernel: release(),
    architecture: process.arch,
    node: process.version,
    user: attempt(() => userInfo().username) ?? String(uid),
    cgroups: layoutOf(readHierarchies()),
    container: containerSign(),
  };
}

/** The names of scripts among the operands. Throws UsageError for any other word. */
function parseScripts(words: string[]): Script[] {
  return words.map((word) => {
    const name = word.replace(/^.*\/|\.(ts|mjs)$/g, '') as Script;
    if (scripts.includes(name)) return name;
    throw new UsageError(`no script that depends on the host: ${word}${didYouMean(name, [...scripts])}`);
  });
}

/** What is printed for people. */
function describe(host: Host, verdicts: Verdict[], checks: Check[], all: boolean): string {
  const { distribution, kernel, architecture, node, user, cgroups, container } = host;
  const rows = verdicts.map(({ script, state, because }) => [script, state, because.join(', ')]);
  const there = checks.filter(({ ok }) => ok).map(({ subject, name, found }) => [subject, name, found]);
  // what one command gets is told together
  const groups = groupBy(
    checks.filter(({ ok }) => !ok),
    ({ remedy }) => remedy,
  );
  const missing = [...groups].map(
    ([remedy, group]) =>
      `${group.map(({ name, found, cost }) => `${name}: ${found}: ${cost}\n`).join('')}${remedy && `  to get it: ${remedy}\n`}`,
  );
  return [
    `${distribution}, Linux ${kernel} on ${architecture}, node ${node}, as ${user}\ncgroups ${cgroups}; ${
      container === null ? 'not in a container' : `in a container: ${container}`
    }\n`,
    `${table(['SCRIPT', 'STATE', 'MISSING'], rows)}\n`,
    ...(all ? [`${table(['SUBJECT', 'CHECK', 'FOUND'], there)}\n`] : []),
    ...missing,
  ].join('\n');
}

await main(import.meta.url, { options, operands: [0, scripts.length] }, async (values, words) => {
  const names = parseScripts(words);
  if (process.platform !== 'linux') throw new Failure(`this is ${process.platform}: the scripts need Linux`);
  const host = readHost();
  const wanted = names.length > 0 ? names : scripts;
  const concerns = ({ needs, limits }: Check) =>
    wanted.some((name) => needs.includes(name) || limits.includes(name));
  const [kernel, programs] = await Promise.all([checkKernel(host.container !== null), checkPrograms()]);
  const all = [...kernel, ...checkCgroups(), ...programs];
  const checks = all.filter(concerns);
  const verdicts = judge(checks, wanted);
  if (values.json) print(`${toJson({ host, scripts: verdicts, checks }, 2)}\n`);
  else if (!values.quiet) print(describe(host, verdicts, checks, values.all));
  return verdicts.some(({ state }) => state === 'fails') ? 1 : 0;
});
