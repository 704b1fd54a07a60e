// Forwarding of signals from run.ts to the command.

import { constants } from 'node:os';
import { attempt, hasSignal, readProc, readProcess } from '../helpers/pids.ts';
import { isHarmless, onSignals } from '../helpers/signals.ts';

const { SIGCONT, SIGINT, SIGQUIT, SIGTSTP, SIGWINCH } = constants.signals;

/**
 * Forwards signals with the effect that they have on an ordinary process. The kernel drops a signal to a PID 1 that has
 * no handler for it, pid_namespaces(7). This class stops such a PID 1 for SIGTSTP, and kills it for all others whose
 * default is to end a process, unless it ignores the signal.
 */
export class Signals {
  /** the number of the signal that came before the command was started, or for which the command was killed */
  ending: number | undefined;
  private target: { pid: number; isInit: boolean; keysReachIt: boolean } | undefined;

  constructor() {
    onSignals((signal) => this.receive(signal));
  }

  /** Forwards signals to this process from now on. `keysReachIt`: it gets those of its own terminal from there. */
  passTo(pid: number, isInit: boolean, keysReachIt: boolean): void {
    this.target = { pid, isInit, keysReachIt };
  }

  private receive(signal: number): void {
    if (!this.target) {
      if (signal === SIGTSTP) process.kill(process.pid, 'SIGSTOP');
      else if (!isHarmless(signal)) this.ending ??= signal;
      return;
    }
    const { pid, isInit, keysReachIt } = this.target;
    // the terminal has sent it to the container too, where the kernel drops it for a PID 1 without a handler
    const isSent = keysReachIt && [SIGINT, SIGQUIT, SIGWINCH].includes(signal);
    const send = (what: number | NodeJS.Signals) => attempt(() => process.kill(pid, what));
    const effect = isInit ? effectOn(pid, signal) : 'delivered';
    if (signal === SIGTSTP) {
      if (effect !== 'ignored') send(effect === 'delivered' ? SIGTSTP : 'SIGSTOP');
      // this process stops too, for the shell that has started it, and goes on by SIGCONT
      process.kill(process.pid, 'SIGSTOP');
      send(SIGCONT);
    } else if (effect === 'delivered' || signal === SIGCONT) {
      if (!isSent) send(signal);
    } else if (effect === 'dropped' && !isHarmless(signal)) {
      this.ending = signal;
      send('SIGKILL');
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
