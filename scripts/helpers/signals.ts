// Signals that a script passes on to the command that it waits for.
import { constants } from 'node:os';
import { attempt } from './pids.ts';

/**
 * Not passed on: those that no process can catch; SIGCHLD, which is for node itself; SIGPIPE, which the kernel sends to
 * node when node writes; SIGTTIN and SIGTTOU, by which a shell's job control stops node too; and what the kernel sends to
 * node for faults of its own.
 */
const kept = 'KILL STOP CHLD PIPE TTIN TTOU ILL BUS FPE SEGV'.split(' ');

/** The first and the last real-time signal in the C library, signal(7). */
export const realTime = [34, 64] as const;

/** The numbers of the signals that are ignored unless a process handles them, or only let it go on, signal(7). */
export const isHarmless = (signal: number) =>
  [constants.signals.SIGCONT, constants.signals.SIGURG, constants.signals.SIGWINCH].includes(signal);

/** A handle of libuv's for one signal, as node has it inside. */
interface SignalHandle {
  onsignal: (signal: number) => void;
  start: (signal: number) => void;
  unref: () => void;
}

/**
 * Node's own class for signals; undefined from Node 24 on, which keeps it to itself. process.on() takes names, and node has
 * none for real-time signals.
 */
export function findSignalClass(): (new () => SignalHandle) | undefined {
  const { binding, noDeprecation } = process as unknown as {
    binding?: (name: string) => { Signal?: new () => SignalHandle };
    noDeprecation?: boolean;
  };
  Object.assign(process, { noDeprecation: true }); // a warning on standard error
  try {
    return attempt(() => binding?.call(process, 'signal_wrap').Signal);
  } finally {
    Object.assign(process, { noDeprecation });
  }
}

/**
 * Calls `listener` with the number of each signal that comes and is to be passed on. Where node can't catch real-time
 * signals, they end this process, as by default.
 */
export function onSignals(listener: (signal: number) => void): void {
  const names = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]));
  for (const [number, name] of names)
    if (!kept.includes(name.slice('SIG'.length))) process.on(name as NodeJS.Signals, () => listener(number));
  const Signal = findSignalClass();
  if (!Signal) return;
  for (let number: number = realTime[0]; number <= realTime[1]; number++) {
    const handle = new Signal();
    handle.unref();
    handle.onsignal = listener;
    handle.start(number);
  }
}
