// The host as a whole, for the live table: CPU time, memory, swap, and pressure.
import { readFileSync } from 'node:fs';
import { attempt } from '../helpers/pids.ts';

/** Usage of the host's CPUs, memory and swap, and how much its processes wait. */
export interface Host {
  /** 100 is one CPU, as for a container; null at the first reading */
  cpuPercent: number | null;
  cpus: number;
  memory: { usedBytes: number; totalBytes: number };
  swap: { usedBytes: number; totalBytes: number };
  /** part of the last 10 seconds in which some process waited, in percent; null if this kernel does not tell, PSI */
  pressure: { cpu: number | null; memory: number | null; io: number | null };
}

/** CPU time of all CPUs since boot, in ticks of the clock. */
interface CpuTicks {
  busy: number;
  total: number;
  cpus: number;
}

/** The CPU time in the text of /proc/stat, proc_stat(5). */
export function parseCpuTicks(stat: string): CpuTicks {
  const [, line = ''] = /^cpu +(.*)$/m.exec(stat) ?? [];
  // guest time is a part of user time already
  const ticks = line.split(' ').slice(0, 8).map(Number);
  const total = ticks.reduce((sum, value) => sum + value, 0);
  const idle = (ticks[3] ?? 0) + (ticks[4] ?? 0);
  return { busy: total - idle, total, cpus: stat.match(/^cpu\d/gm)?.length ?? 1 };
}

/** The value of `some avg10` in the text of a file in /proc/pressure; null if there is none. */
export function parsePressure(text: string | undefined): number | null {
  const [, value] = /^some avg10=([\d.]+)/.exec(text ?? '') ?? [];
  return value === undefined ? null : Number(value);
}

/** Memory and swap in the text of /proc/meminfo, proc_meminfo(5). Used memory is what is not available. */
export function parseMeminfo(text: string): Pick<Host, 'memory' | 'swap'> {
  const bytes = (name: string) => Number(new RegExp(`^${name}: +(\\d+)`, 'm').exec(text)?.[1] ?? 0) * 1024;
  const [totalBytes, swapBytes] = [bytes('MemTotal'), bytes('SwapTotal')];
  return {
    memory: { usedBytes: totalBytes - bytes('MemAvailable'), totalBytes },
    swap: { usedBytes: swapBytes - bytes('SwapFree'), totalBytes: swapBytes },
  };
}

/** A reader of the host, which remembers the CPU time at its last reading. */
export function hostReader(): () => Host {
  let before: CpuTicks | undefined;
  const pressure = (of: string) => parsePressure(attempt(() => readFileSync(`/proc/pressure/${of}`, 'utf8')));
  return () => {
    const now = parseCpuTicks(readFileSync('/proc/stat', 'utf8'));
    const passed = now.total - (before?.total ?? now.total);
    const busy = now.busy - (before?.busy ?? now.busy);
    before = now;
    return {
      cpuPercent: passed > 0 ? Math.max(0, (busy / passed) * now.cpus * 100) : null,
      cpus: now.cpus,
      ...parseMeminfo(readFileSync('/proc/meminfo', 'utf8')),
      pressure: { cpu: pressure('cpu'), memory: pressure('memory'), io: pressure('io') },
    };
  };
}
