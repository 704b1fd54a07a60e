// The processes that a word of the command line means: a PID, or the name of a container, whoever made it.
import { scriptPath } from '../helpers/called.ts';
import { Failure } from '../helpers/cli.ts';
import { didYouMean } from '../helpers/messages.ts';
import { checkName, noProcess } from '../helpers/target.ts';
import type { Reading } from './containers.ts';
import { killsText, readEnded, statusText } from './ended.ts';

/** Throws UsageError for the first word that is neither a name nor a PID. */
export function checkTargets(words: string[]): void {
  for (const word of words) if (!/^\d+$/.test(word)) checkName(word);
}

/**
 * The process of a PID, or the first processes of the containers of a name. `started`: the ticks at which a process of
 * this PID was started, read before all else, since they tell it from a later one. Throws Failure if there is none.
 */
export function processesOf(
  word: string,
  started: number | undefined,
  { containers }: Reading,
): { pid: number; started: number }[] {
  if (started !== undefined) return [{ pid: Number(word), started }];
  const named = containers.filter(({ shown }) => shown.name === word);
  if (named.length > 0) return named.map(({ shown: { pid, ticks } }) => ({ pid, started: ticks }));
  const end = readEnded(word);
  if (end) {
    const kills = killsText(end.oomKills);
    const why = kills ? `; ${kills}` : '';
    throw new Failure(
      `${word} has ended, ${statusText(end, Date.now())}: ${scriptPath('logs')} ${word} shows its output${why}`,
    );
  }
  if (/^\d+$/.test(word)) throw noProcess(word);
  const names = containers.flatMap(({ shown }) => shown.name ?? []);
  throw new Failure(
    `there is no container ${word}${didYouMean(word, names) || `: ${scriptPath('ps')} shows those there are`}`,
  );
}
