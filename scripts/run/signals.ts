// Signals that are sent to run.ts and meant for the command.

import { constants } from 'node:os';
import { attempt, hasSignal, readProc, readProcess } from '../helpers/pids.ts';

/** Signals that are meant for the command. */
const passed = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGTERM'] as const;

/**
 * Passes signals on as the kernel would to a process that is no PID 1: one that has no handler for a signal, and does not
 * ignore it, is ended by it, where the kernel spares a PID 1, pid_namespaces(7).
 */
export class Signals {
  /** the signal that came before there was a command, or that ended it */
  ending: NodeJS.Signals | undefined;
  private target: { pid: number; isInit: boolean; keysReachIt: boolean } | undefined;

  constructor() {
    for (const signal of passed) process.on(signal, () => this.receive(signal));
  }

  /** From now on they are for this process. `keysReachIt`: those of a terminal reach it without our help. */
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
    const arrives = keysReachIt && (signal === 'SIGINT' || signal === 'SIGQUIT');
    const fate = isInit ? signalFate(pid, constants.signals[signal]) : 'arrives';
    if (fate === 'arrives' && !arrives) attempt(() => process.kill(pid, signal));
    if (fate === 'spared') {
      this.ending = signal;
      attempt(() => process.kill(pid, 'SIGKILL'));
    }
  }
}

/** What a PID 1 makes of a signal from outside. */
function signalFate(pid: number, signal: number): 'arrives' | 'ignored' | 'spared' {
  // one that has just ended by itself has neither handlers nor a need of any
  if (readProcess(pid)?.zombie !== false) return 'ignored';
  // an init waits in sigtimedwait(2), and has them neither blocked nor caught meanwhile
  const waits = readProc(pid, 'wchan')?.includes('sigtimedwait');
  if (waits || hasSignal(pid, 'SigCgt', signal) || hasSignal(pid, 'SigBlk', signal)) return 'arrives';
  return hasSignal(pid, 'SigIgn', signal) ? 'ignored' : 'spared';
}
