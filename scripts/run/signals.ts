// Forwarding of signals from run.ts to the command.

import { constants } from 'node:os';
import { attempt, hasSignal, readProc, readProcess } from '../helpers/pids.ts';

/** Signals that are forwarded. */
const forwarded = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGTERM'] as const;

/**
 * Forwards signals with the effect that they have on an ordinary process. The kernel drops a signal to a PID 1 that has
 * no handler for it, pid_namespaces(7). This class kills such a PID 1, unless it ignores the signal.
 */
export class Signals {
  /** the signal that came before the command was started, or for which the command was killed */
  ending: NodeJS.Signals | undefined;
  private target: { pid: number; isInit: boolean; keysReachIt: boolean } | undefined;

  constructor() {
    for (const signal of forwarded) process.on(signal, () => this.receive(signal));
  }

  /** Forwards signals to this process from now on. `keysReachIt`: it gets SIGINT and SIGQUIT from its own terminal. */
  passTo(pid: number, isInit: boolean, keysReachIt: boolean): void {
    this.target = { pid, isInit, keysReachIt };
    process.on('SIGTSTP', () => {
      attempt(() => process.kill(pid, 'SIGSTOP'));
      process.kill(process.pid, 'SIGSTOP');
      attempt(() => process.kill(pid, 'SIGCONT'));
    });
  }

  private receive(signal: NodeJS.Signals): void {
    if (!this.target) {
      this.ending ??= signal;
      return;
    }
    const { pid, isInit, keysReachIt } = this.target;
    const isKey = keysReachIt && (signal === 'SIGINT' || signal === 'SIGQUIT');
    const effect = isInit ? effectOn(pid, constants.signals[signal]) : 'delivered';
    if (effect === 'delivered' && !isKey) attempt(() => process.kill(pid, signal));
    if (effect === 'dropped') {
      this.ending = signal;
      attempt(() => process.kill(pid, 'SIGKILL'));
    }
  }
}

/** The effect of a signal from outside on a PID 1. `dropped`: by the kernel, although PID 1 does not ignore it. */
function effectOn(pid: number, signal: number): 'delivered' | 'ignored' | 'dropped' {
  // a PID 1 that has just ended has no handlers any more
  if (readProcess(pid)?.zombie !== false) return 'ignored';
  // while an init waits in sigtimedwait(2), the signals that it waits for are neither blocked nor caught
  const waits = readProc(pid, 'wchan')?.includes('sigtimedwait');
  if (waits || hasSignal(pid, 'SigCgt', signal) || hasSignal(pid, 'SigBlk', signal)) return 'delivered';
  return hasSignal(pid, 'SigIgn', signal) ? 'ignored' : 'dropped';
}
