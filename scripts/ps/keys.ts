// What keys do in the live table: a pure function from what is shown and a key to what is shown next.
import { printable } from '../helpers/pids.ts';
import type { Live } from './watch.ts';

/** What the live table shows, and how. */
export interface State {
  /** the table; the list of keys; the page of a container; the table while a filter or an answer is typed */
  mode: 'table' | 'keys' | 'page' | 'filter' | 'question';
  order: string;
  reversed: boolean;
  /** only containers whose name, command or engine contains this */
  filter: string;
  /** the container that is marked, see keyOf */
  selected: string | undefined;
  /** what stop.ts has said */
  message: string;
}

export const start: State = {
  ...{ mode: 'table', order: 'CPU', reversed: false, filter: '', selected: undefined, message: '' },
};

/** What tells a container from all others, also from a later one with its PID. */
export const keyOf = ({ pid, ticks }: Pick<Live, 'pid' | 'ticks'>) => `${pid} ${ticks}`;

/** The key of each order. */
const orders: Record<string, string> = {
  ...{ c: 'CPU', m: 'memory', p: 'PIDs', i: 'I/O', t: 'throttled', o: 'OOM', n: 'name' },
};

/** All keys, for people. */
export const keyHelp = [
  ...Object.entries(orders).map(([key, name]) => `${key}          sort by ${name}`),
  'r          reverse the order',
  'up, down   mark a container',
  'Enter      the page of the marked container: limits, processes, OOM kills',
  'k          stop the marked container with stop.ts, after a question',
  '/          show only containers whose name, command or engine contains a text',
  'Escape     back; in the table: no mark, no filter',
  'q          quit, as Ctrl-C does',
];

/** The line of keys. On a narrow screen keys are left out, the last orders first; how to quit stays. */
export function keyLine(width: number): string {
  const always = ['? keys', 'q quit'];
  const keys = Object.entries(orders).map((words) => words.join(' '));
  const line = () => [...keys, ...always].join('  ');
  while (line().length > width && keys.length > 0) keys.pop();
  if (line().length > width) always.shift();
  return line();
}

/** A container in a question or a message: `web (PID 100)`. */
export const callIt = ({ name, pid }: Pick<Live, 'name' | 'pid'>) =>
  name === null ? `PID ${pid}` : `${printable(name)} (PID ${pid})`;

/** Whether a filter lets a container through. */
export const passes = (filter: string, { name, command, engine }: Live) =>
  [name ?? '', command, engine].some((text) => text.toLowerCase().includes(filter.toLowerCase()));

/** What the line of keys shows instead, while there is a question or a message. */
export function prompt({ mode, filter, selected, message }: State, rows: Live[]): string {
  const row = rows.find((one) => keyOf(one) === selected);
  if (mode === 'filter') return `show only: ${printable(filter)}_   Enter: keep  Escape: show all`;
  if (mode === 'question' && row) return `stop ${callIt(row)}? y: yes  any other key: no`;
  return message;
}

/**
 * What a key leads to: `rows` are the containers as they are shown. `quit`: the table ends; `stop`: the marked container
 * is to be stopped. A key is a character, or up, down, enter, escape, backspace; '' is the end of the input.
 */
export function press(state: State, key: string, rows: Live[]): { state: State; action?: 'quit' | 'stop' } {
  if (['\x03', '\x04', ''].includes(key)) return { state, action: 'quit' };
  const at = rows.findIndex((row) => keyOf(row) === state.selected);
  const mark = (index: number) => {
    const row = rows[Math.max(0, Math.min(rows.length - 1, index))];
    return row && keyOf(row);
  };
  const selected = at < 0 ? mark(0) : state.selected;
  const table: State = { ...state, mode: 'table', message: '' };
  switch (state.mode) {
    case 'question':
      return key === 'y' && at >= 0 ? { state: table, action: 'stop' } : { state: table };
    case 'filter':
      if (key === 'enter') return { state: table };
      if (key === 'escape') return { state: { ...table, filter: '' } };
      if (key === 'backspace')
        return { state: { ...state, filter: [...state.filter].slice(0, -1).join('') } };
      return { state: [...key].length === 1 ? { ...state, filter: state.filter + key } : state };
    case 'keys':
    case 'page':
      return key === 'q' || key === 'Q' ? { state, action: 'quit' } : { state: table };
  }
  if (key === 'q' || key === 'Q') return { state, action: 'quit' };
  if (orders[key]) return { state: { ...table, order: orders[key] } };
  if (key === 'r') return { state: { ...table, reversed: !state.reversed } };
  if (key === '?') return { state: { ...table, mode: 'keys' } };
  if (key === '/') return { state: { ...table, mode: 'filter', filter: '' } };
  if (key === 'up') return { state: { ...table, selected: mark(at < 0 ? 0 : at - 1) } };
  if (key === 'down') return { state: { ...table, selected: mark(at < 0 ? 0 : at + 1) } };
  if (key === 'escape') return { state: { ...table, filter: '', selected: undefined } };
  if (key === 'enter' && selected) return { state: { ...table, mode: 'page', selected } };
  if (key === 'k' && selected) return { state: { ...table, mode: 'question', selected } };
  return { state: table };
}
