#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
inspect.ts: tell what a process is, and what separates it from the host

USAGE
  inspect.ts [--json] [--no-trunc] TARGET
  inspect.ts --diff OTHER [--json] TARGET
  inspect.ts --svg FILE TARGET
  inspect.ts --mermaid TARGET

  TARGET is a PID of any process, in a container or not; or the name of a
  container of any engine, which means its first process.

  First it prints the findings, the most severe first, as lines
  "WEIGHT: SUBJECT: what it allows (where it comes from)":
  critical  the process can take over the host, or all of its files
  warning   a barrier is missing, and others or the host can suffer from it
  note      good to know
  Then it prints the facts, as lines "key: value": container, the chain of
  processes that started it, mounts of the host, namespaces and who shares them,
  user and ID maps, capabilities, seccomp, limits and who has set them, devices,
  sockets of engines, descriptors of files outside of the container, kernel
  files that the process can write to. "not seen" lists what could not be read,
  and why.

EXAMPLES
  inspect.ts 4711                               what is this PID?
  inspect.ts --diff staging web                 it works there, and not here
  inspect.ts --svg incident.svg web             a picture for the post-mortem
  inspect.ts --json web | jq '.findings[] | select(.weight == "critical")'

OPTIONS
*     --diff OTHER  print only the facts that differ from those of OTHER
                    PIDs, times, inode numbers and usage are not compared
*     --json        print an object with the facts and `findings`
                    with --diff: an object with targets and differences
*     --svg FILE    write a picture for a post-mortem to FILE, as SVG
                    processes, namespaces, cgroups and findings; without
                    scripts, for light and dark backgrounds; - is standard
                    output
*     --mermaid     print this picture as a flowchart of Mermaid
*     --no-trunc    print long commands in full
* -h, --help        print the usual options; --help all: all of this
      --version     print name and version

CHANGES
  Nothing, except FILE of --svg. Without root it lists what it could not see.

EXIT CODES
  0 done, whatever it has found; 1 failed, as for a process that has ended;
  2 wrong usage.

SEE ALSO
  ps.ts, lsns(8), capsh(1), proc(5), namespaces(7), capabilities(7), cgroups(7)
*/

import { writeFileSync } from 'node:fs';
import { Failure, main, reason, UsageError } from './helpers/cli.ts';
import { print, toJson } from './helpers/output.ts';
import { printable, startTicks } from './helpers/pids.ts';
import { cut, table } from './helpers/table.ts';
import { type Difference, differences } from './inspect/diff.ts';
import { type Facts, readFacts } from './inspect/facts.ts';
import { type Finding, findingsOf, type Weight } from './inspect/findings.ts';
import { pictureOf, toMermaid, toSvg } from './inspect/picture.ts';
import { factLines } from './inspect/text.ts';
import { containerReader } from './ps/containers.ts';
import { namespaceReader } from './ps/namespaces.ts';
import { allowsColour, dress, red, yellow } from './ps/screen.ts';
import { checkTargets, processesOf } from './ps/target.ts';

export const options = {
  diff: { parse: (text: string) => text },
  json: {},
  svg: { parse: (text: string) => text },
  mermaid: {},
  noTrunc: {},
};

/** Reads the facts about the processes that the words mean. Throws Failure for a name that several containers have. */
function readAll(words: string[]): Facts[] {
  checkTargets(words);
  // read before all else: it tells a process from a later one with its PID
  const ticks = words.map((word) => startTicks(Number(word)));
  const reading = containerReader()();
  const namespacesOf = namespaceReader(reading);
  return words.map((word, index) => {
    const [first, ...others] = processesOf(word, ticks[index], reading);
    if (others.length > 0)
      throw new Failure(
        `${others.length + 1} containers are called ${word}: type one of the PIDs ${[first, ...others].map((one) => one?.pid).join(', ')}`,
      );
    const { pid, started } = first as { pid: number; started: number };
    return readFacts(pid, started, reading, namespacesOf);
  });
}

const styles: Record<Weight, number | undefined> = { critical: red, warning: yellow, note: undefined };

/** The findings as lines: weight, subject, what it allows, and where it comes from. */
export function findingLines(findings: Finding[], colour: boolean): string[] {
  if (findings.length === 0) return ['nothing found: it is separated from the host as far as can be seen'];
  return findings.map(({ weight, subject, allows, origin }) => {
    const style = colour ? styles[weight] : undefined;
    const word = style === undefined ? weight : dress(weight, style);
    return `${word}: ${printable(`${subject}: ${allows} (${origin})`)}`;
  });
}

/** How a target is called in the head of a table: its container and its PID. */
const titleOf = ({ pid, container }: Facts) =>
  container?.name && container.role === 'first' ? `${container.name} (PID ${pid})` : `PID ${pid}`;

/** The differences as a table. */
const differenceTable = (found: Difference[], titles: string[], short: (text: string) => string) =>
  table(
    ['FACT', ...titles],
    found.map(({ fact, here, there }) =>
      [fact, here ?? '-', there ?? '-'].map((text) => printable(short(text))),
    ),
  );

function writePicture(file: string, text: string): void {
  try {
    if (file === '-') print(text);
    else writeFileSync(file, text);
  } catch (error) {
    throw new Failure(`cannot write ${file}: ${reason(error)}`);
  }
}

await main(import.meta.url, { options, operands: [1, 1] }, async (given, [target = '']) => {
  const { diff, json, svg, mermaid, noTrunc } = given;
  const kinds = [
    diff === undefined ? '' : '--diff',
    svg === undefined ? '' : '--svg',
    mermaid ? '--mermaid' : '',
  ];
  const [one, other] = kinds.filter(Boolean);
  if (other) throw new UsageError(`${one} cannot be combined with ${other}`);
  if (json && (svg !== undefined || mermaid)) throw new UsageError(`--json cannot be combined with ${one}`);

  const short = (text: string) => (noTrunc ? text : cut(text, 100));
  if (diff !== undefined) {
    const [here, there] = readAll([target, diff]) as [Facts, Facts];
    const found = differences(here, there);
    const targets = [here, there].map(({ pid, command, container }) => ({
      pid,
      command,
      container: container?.name ?? null,
    }));
    if (json) console.log(toJson({ targets, differences: found }, 2));
    else if (found.length > 0) console.log(differenceTable(found, [here, there].map(titleOf), short));
    else console.error('inspect: no fact differs');
    return 0;
  }

  const [facts] = readAll([target]) as [Facts];
  const findings = findingsOf(facts);
  if (json) console.log(toJson({ findings, ...facts }, 2));
  else if (svg !== undefined) writePicture(svg, toSvg(pictureOf(facts, findings)));
  else if (mermaid) print(toMermaid(pictureOf(facts, findings)));
  else {
    const colour = process.stdout.isTTY === true && allowsColour();
    const lines = factLines(facts, short).map(([key, value]) => `${key}: ${value}`);
    console.log([...findingLines(findings, colour), '', ...lines].join('\n'));
  }
  return 0;
});
