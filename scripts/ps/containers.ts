// The containers of this host as they are now: who they are, and what they use.
import { readdirSync } from 'node:fs';
import { uptime } from 'node:os';
import { type Container, findContainers } from '../helpers/containers.ts';
import { identify } from '../helpers/engine.ts';
import { commandLine, readProc, readProcess, readProcesses, readStat } from '../helpers/pids.ts';
import { readOomKills } from '../limit/oom-kills.ts';
import { type Accounting, findPlaces, readAccounting, readUsage } from './usage.ts';

/** The words before the command of a container with --init: of the host's init, or of the shell program that is one. */
export const initWords =
  /^(\/dev\/init\0(?:-\w+\0)*--\0|\/bin\/sh\0-c\0signals='HUP INT QUIT [^\0]*\0init\0)/;

/** The command of a container: the command line of its first process, without the init of run.ts --init. */
function commandOf({ first }: Container, isOurs: boolean): string {
  const line = commandLine(first);
  const init = isOurs ? initWords.exec(readProc(first.pid, 'cmdline') ?? '')?.[0].length : undefined;
  // each NUL is a blank in the line
  return (init && line.slice(init)) || line;
}

/** Processes and containers at one moment, and of each container what stays the same while its processes do. */
function readAll(accounting: Accounting) {
  const atBootSeconds = uptime();
  const table = readProcesses();
  const { containers, hidden } = findContainers(table);
  const found = containers.map((container) => {
    const { engine, name } = identify(table, container);
    const isOurs = engine === 'barehand' && name !== undefined;
    const places = findPlaces(accounting, table, containers, container, isOurs);
    return { container, places, name: name ?? null, command: commandOf(container, isOurs), engine };
  });
  return { table, found, hidden, atBootSeconds };
}

type All = ReturnType<typeof readAll>;

/** A container as it is now; undefined if it has ended. null: a value does not exist or cannot be read. */
function readShown(accounting: Accounting, { table }: All, known: All['found'][number]) {
  const { container, places, name, command, engine } = known;
  const { pid } = container.first;
  const stat = readStat(pid);
  if (!stat || stat.zombie) return undefined;
  // start time of its first process: with the PID it identifies the process
  const ticks = stat.startTicks;
  const oomKills = readOomKills(places.memory, accounting.memory, ticks / 100);
  return { name, pid, ticks, command, ...readUsage(places, table, container), oomKills, engine };
}

export type Shown = NonNullable<ReturnType<typeof readShown>>;

/**
 * A function that reads all processes and containers, and how many processes this user may not look into. Finding
 * containers takes most of the time, and is repeated only if the list of PIDs has changed, and every 5 s, since
 * chroot(2) changes no PID.
 */
export function containerReader() {
  const accounting = readAccounting();
  let reading: All | undefined;
  let pids = '';
  return () => {
    const now = readdirSync('/proc').join();
    if (!reading || now !== pids || uptime() - reading.atBootSeconds > 5) reading = readAll(accounting);
    else refresh(reading);
    pids = now;
    const { table, found, hidden } = reading;
    const containers = found.flatMap((known) => {
      const shown = readShown(accounting, reading as All, known);
      return shown ? { shown, container: known.container, places: known.places } : [];
    });
    return { table, containers, hidden };
  };
}

/** All processes, and all containers as they are now. */
export type Reading = ReturnType<ReturnType<typeof containerReader>>;

/** Reads processes again whose container has no cgroup of its own. */
function refresh({ table, found }: All): void {
  for (const { container, places } of found)
    for (const pid of places.memory && places.pids ? [] : container.members) {
      const process = readProcess(pid);
      if (process) table.set(pid, process);
    }
}
