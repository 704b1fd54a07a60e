import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { findHierarchy, parent, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { toJson } from '../scripts/helpers/output.ts';
import { cut, widthOf } from '../scripts/helpers/table.ts';
import { parseCpuTicks, parseMeminfo, parsePressure } from '../scripts/ps/host.ts';
import { keyOf, passes, press, prompt, start as startState } from '../scripts/ps/keys.ts';
import { bar, keysIn, layout, sparkline, speaksUnicode } from '../scripts/ps/screen.ts';
import { type Counters, parseIo, rates } from '../scripts/ps/usage.ts';
import { frame, hostLine, type Live, type Look, sortRows, track, type View } from '../scripts/ps/watch.ts';
import { container, start, startByHand, stat } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, script, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const counters: Counters = {
  atMilliseconds: 1000,
  atBootSeconds: 100,
  cpuSeconds: 5,
  readBytes: 1000,
  writeBytes: 0,
  throttledSeconds: 1,
  processes: undefined,
};

test('rates are differences over the time that has passed', () => {
  const unknown = {
    cpuPercent: null,
    throttledPercent: null,
    readBytesPerSecond: null,
    writeBytesPerSecond: null,
  };
  assert.deepEqual(rates(undefined, counters), unknown);
  assert.deepEqual(rates(counters, counters), unknown, 'no time has passed');
  const later = { ...counters, atMilliseconds: 3000, cpuSeconds: 6, readBytes: 5000, throttledSeconds: 2.5 };
  assert.deepEqual(rates(counters, later), {
    cpuPercent: 50,
    throttledPercent: 75,
    readBytesPerSecond: 2000,
    writeBytesPerSecond: 0,
  });
  const backwards = { ...later, cpuSeconds: 4, readBytes: 0, throttledSeconds: 0, writeBytes: null };
  assert.deepEqual(rates(counters, backwards), unknown);
  assert.deepEqual(rates({ ...counters, throttledSeconds: null }, later).throttledPercent, null);
  assert.deepEqual(rates(later, counters), unknown, 'the clock went backwards');
});

test('without a cgroup, rates are those of the processes that are in both looks, or new', () => {
  const work = (cpuSeconds: number, startedBootSeconds: number, bytes: number | null = 0) => ({
    ...{ cpuSeconds, startedBootSeconds, readBytes: bytes, writeBytes: bytes, throttledSeconds: null },
  });
  const look = (atMilliseconds: number, processes: Counters['processes']): Counters => ({
    ...{ atMilliseconds, atBootSeconds: atMilliseconds / 1000, processes },
    ...{ cpuSeconds: null, readBytes: null, writeBytes: null, throttledSeconds: null },
  });
  const before = look(
    10_000,
    new Map([
      ['1 100', work(5, 1)],
      ['2 200', work(50, 2)],
    ]),
  );
  const percent = (...processes: [string, ReturnType<typeof work>][]) =>
    rates(before, look(12_000, new Map(processes))).cpuPercent;
  assert.equal(percent(['1 100', work(6, 1)]), 50, 'the other has ended');
  assert.equal(percent(['1 100', work(6, 1)], ['3 1100', work(0.5, 11)]), 75, 'one was born');
  assert.equal(percent(['1 100', work(6, 1)], ['4 300', work(30, 3)]), 50, 'one has joined');
  assert.equal(percent(['1 1150', work(0.1, 11.5)]), 5, 'its PID was used again');
  assert.equal(percent(['1 100', work(4, 1)]), 0, 'a counter went backwards');
  assert.equal(percent(), null, 'nothing to be seen');
  const hidden = look(12_000, new Map([['1 100', work(6, 1, null)]]));
  assert.equal(rates(before, hidden).readBytesPerSecond, null);
  // a container that has got a cgroup to itself meanwhile
  assert.equal(rates(before, { ...counters, atMilliseconds: 12_000 }).cpuPercent, null);
});

test('bytes are read from the files of v1 and v2', () => {
  const v1 = '8:0 Read 1024\n8:0 Write 10\n8:0 Sync 5\n8:0 Total 1034\n8:16 Read 1\nTotal 1035\n';
  const v2 =
    '8:0 rbytes=1024 wbytes=10 rios=3 wios=4 dbytes=7 dios=1\n8:16 rbytes=1 wbytes=0 rios=1 wios=0\n';
  for (const text of [v1, v2]) assert.deepEqual(parseIo(text), { readBytes: 1025, writeBytes: 10 });
  for (const text of ['', 'Total 0\n', '8:0 \n'])
    assert.deepEqual(parseIo(text), { readBytes: 0, writeBytes: 0 });
});

test('a bar is filled by a share, and never overflows', () => {
  const bars: [number, number | null, string, string][] = [
    [0, 100, '[....]', '▕    ▏'],
    [50, 100, '[##..]', '▕██  ▏'],
    [53, 100, '[##..]', '▕██▏ ▏'],
    [97, 100, '[###.]', '▕███▉▏'],
    [100, 100, '[####]', '▕████▏'],
    [300, 100, '[####]', '▕████▏'],
    [-5, 100, '[....]', '▕    ▏'],
    [5, 0, '[####]', '▕████▏'],
    [5, null, '', ''],
  ];
  for (const [part, whole, ascii, unicode] of bars) {
    assert.equal(bar(part, whole, 4, false), ascii);
    assert.equal(bar(part, whole, 4, true), unicode);
  }
});

test('a sparkline shows the last values', () => {
  assert.equal(sparkline([0, 1, 2, 3, 4, 5, 6, 7], 7, 8, true), '▁▂▃▄▅▆▇█');
  assert.equal(sparkline([0, 1, 2, 3, 4, 5, 6, 7], 7, 8, false), '_.-=+*%#');
  assert.equal(sparkline([7, 7, 0, 9, -1], 7, 3, true), '▁█▁');
  assert.equal(sparkline([0, 0], 0, 3, true), '▁▁');
  assert.equal(sparkline([], 5, 3, true), '');
});

test('text is cut to columns of the terminal, not to characters', () => {
  assert.equal(widthOf('web…▏█'), 6);
  assert.equal(widthOf('日本'), 4);
  const cuts: [string, number, string, string][] = [
    ['abcdef', 6, 'abcdef', 'abcdef'],
    ['abcdef', 4, 'abc…', '…def'],
    ['日本語', 4, '日…', '…語'],
    ['abc', 1, '…', '…'],
    ['abc', 0, '', ''],
  ];
  for (const [whole, width, end, front] of cuts)
    assert.deepEqual([cut(whole, width), cut(whole, width, true)], [end, front]);
});

test('a table gives way until it is narrow enough', () => {
  const columns = [
    { title: 'NAME', shrinkTo: 4 },
    { title: 'N', right: true, atLeast: 3 },
    { title: 'MORE', dropOrder: 1 },
    { title: 'COMMAND', shrinkTo: 7, dropOrder: 2 },
  ];
  const rows = [['a-long-name', '5', 'x', 'sleep 1000']].map((cells) => cells.map((text) => ({ text })));
  const at = (width: number) => layout(columns, rows, width, false);
  assert.deepEqual(at(80), ['NAME           N  MORE  COMMAND', 'a-long-name    5  x     sleep 1000']);
  assert.equal(at(31)[1], 'a-long-name    5  x     sleep …');
  assert.equal(at(30)[1], 'a-long-na…    5  x     sleep …');
  assert.equal(at(22)[1], 'a-long-name    5  x');
  assert.equal(at(16)[1], 'a-lo…    5  x');
  assert.equal(at(14)[1], 'a-long-n…    5');
  assert.equal(at(5)[1], 'a-l……');
  for (let width = 1; width < 40; width++)
    for (const line of at(width)) assert.ok(widthOf(line) <= width, `${width}: ${line}`);
  const styled = layout([{ title: 'A', right: true, atLeast: 3 }], [[{ text: 'x', style: 31 }]], 9, true);
  assert.deepEqual(styled, ['  A', '  \x1b[31mx\x1b[m']);
});

test('JSON is safe on a terminal, and stays JSON', () => {
  const value = { name: 'a\u007f\u009b\u202e\u{e0001}\u2028' };
  assert.doesNotMatch(toJson(value), /[^ -~]/);
  assert.deepEqual(JSON.parse(toJson(value)), value);
});

test('UTF-8 is what the locale says', () => {
  assert.equal(speaksUnicode({ LANG: 'de_DE.UTF-8' }), true);
  assert.equal(speaksUnicode({ LANG: 'C.utf8', LC_ALL: 'C' }), false);
  assert.equal(speaksUnicode({}), false);
});

const look: Look = {
  name: 'web',
  pid: 100,
  ticks: 5,
  engine: 'barehand',
  command: 'sh -c while :; do :; done',
  memory: { usedBytes: 96 * 1024 * 1024, limitBytes: 100 * 1024 * 1024, source: 'cgroup' },
  limits: { memoryBytes: 100 * 1024 * 1024, cpus: 0.5, pids: 20 },
  pids: 3,
  oomKills: {
    count: 1,
    level: 'own',
    cgroup: '/barehand/web',
    limitBytes: 100 * 1024 ** 2,
    process: null,
    at: null,
  },
  counters,
};
const only = (tracks: ReturnType<typeof track>) => [...tracks.values()];

test('a container is followed from look to look by its PID and start', () => {
  const first = track(new Map(), [look]);
  const later = { ...counters, atMilliseconds: 2000, cpuSeconds: 5.25 };
  const killed = { ...look, counters: later, oomKills: { ...look.oomKills, count: 3 } as Look['oomKills'] };
  const [live] = only(track(first, [killed]));
  assert.deepEqual([live?.cpuPercent, live?.newKills, live?.history.length], [25, 2, 2]);
  assert.deepEqual(live?.estimated, []);
  const [other] = only(track(first, [{ ...look, ticks: 6, counters: later }]));
  assert.deepEqual([other?.cpuPercent, other?.newKills, other?.history.length], [null, 0, 1]);
  assert.equal(track(first, []).size, 0);
  const shared = { ...look, memory: { ...look.memory, source: 'rss' as const } };
  const bare = { ...counters, cpuSeconds: null, readBytes: null, processes: new Map() };
  assert.deepEqual(only(track(new Map(), [{ ...shared, counters: bare }]))[0]?.estimated, [
    'cpu',
    'io',
    'memory',
  ]);
});

const live = only(track(new Map(), [look]))[0] as Live;
const live2 = {
  ...live,
  cpuPercent: 12.34,
  throttledPercent: 50,
  readBytesPerSecond: 2048,
  writeBytesPerSecond: 0,
};

test('rows are sorted as asked', () => {
  const rows = [
    { ...live, name: 'a', cpuPercent: 1, pids: 3, throttledPercent: null },
    { ...live, name: null, cpuPercent: null, pids: 2, throttledPercent: 3 },
    { ...live, name: 'b', cpuPercent: 30, pids: 1, writeBytesPerSecond: 5, oomKills: null },
  ];
  const names = (order: string, reversed = false) =>
    sortRows(rows, order, reversed)
      .map(({ name }) => name ?? '-')
      .join('');
  assert.equal(names('CPU'), 'ba-');
  assert.equal(names('CPU', true), '-ab');
  assert.equal(names('PIDs'), 'a-b');
  assert.equal(names('I/O'), 'ba-');
  assert.equal(names('throttled'), '-ab');
  assert.equal(names('OOM'), 'a-b');
  assert.equal(names('name'), 'ab-');
  assert.equal(names('memory'), 'a-b', 'equal ones stay');
});

const view: View = {
  order: 'CPU',
  reversed: false,
  width: 160,
  height: 20,
  styled: false,
  unicode: false,
  time: new Date(2024, 1, 1, 12, 30, 5),
  intervalSeconds: 2,
};

test('a frame has all there is to see where there is room', () => {
  const [head, keys, title, row, ...rest] = frame([live2], view);
  assert.equal(head, '12:30:05  1 container, every 2 s, by CPU');
  assert.equal(keys, 'c CPU  m memory  p PIDs  i I/O  t throttled  o OOM  n name  ? keys  q quit');
  assert.deepEqual(rest, []);
  assert.deepEqual(title?.trim().split(/ +/), [
    ...[
      'NAME',
      'PID',
      'CPU%',
      'MEMORY',
      'HISTORY',
      'PIDS',
      'READ/s',
      'WRITE/s',
      'THROTTLED',
      'OOM',
      'COMMAND',
    ],
  ]);
  assert.match(
    row ?? '',
    /^web +100 +12\.3 \/ 50 +96M \/ 100M +\[#{9}\.\] +3 \/ 20 +2K +0 +50\.0% +1 \(own\) +sh -c while :; do :; done$/,
  );
  const [, , , first] = frame([{ ...live, estimated: ['cpu', 'memory'] }], view);
  assert.match(first ?? '', /^web +100 +- \/ 50 +~96M \/ 100M .* - +- +-% /);
});

test('a frame fits every terminal', () => {
  const rows = Array.from({ length: 30 }, (_, index) => ({ ...live2, name: `container-${index}` }));
  for (const height of [1, 2, 3, 4, 5, 10, 33, 34, 60])
    for (const width of [1, 20, 60, 79, 100, 119, 250]) {
      const lines = frame(rows, { ...view, width, height });
      assert.ok(lines.length <= height, `${width}x${height}: ${lines.length} lines`);
      for (const line of lines) assert.ok(widthOf(line) <= width, `${width}x${height}: ${line}`);
      if (height > 3 && width > 20) {
        const shown = lines.filter((line) => /^con/.test(line)).length;
        assert.equal(lines.at(-1), shown < 30 ? `... and ${30 - shown} more` : lines.at(-1));
        assert.equal(shown, Math.min(30, height >= 33 ? 30 : height - 4), `${width}x${height}`);
      }
    }
  const narrow = frame(rows, { ...view, width: 79, height: null })[1] ?? '';
  assert.match(narrow, /^NAME.* MEMORY .* OOM .* COMMAND$/);
  assert.equal(frame([], { ...view, height: null }).length, 2);
});

test('on a narrow screen columns go in one order, and the line of keys stays whole', () => {
  const titles = (width: number) =>
    frame([{ ...live2, name: 'a-name-of-twenty-one' }], { ...view, width })[2]
      ?.trim()
      .split(/ +/) ?? [];
  const all = titles(200);
  const gone: string[] = [];
  for (let width = 199; width > 56; width--)
    for (const title of all) if (!titles(width).includes(title) && !gone.includes(title)) gone.push(title);
  assert.deepEqual(gone, ['READ/s', 'WRITE/s', 'THROTTLED', 'HISTORY', 'PIDS', 'CPU%']);
  for (let width = 6; width <= 120; width++) {
    const [, keys = ''] = frame([live2], { ...view, width });
    assert.match(keys, /^([cmpiton] [\w/]+ {2})*(\? keys {2})?q quit$/, `${width}`);
    assert.ok(keys.length <= width);
    if (width >= 79) assert.match(keys, /^c .* o OOM {2}n name {2}\? keys {2}q quit$/);
  }
});

test('history begins empty, and is filled from the right', () => {
  const history = (values: number[]) => {
    const [, , title = '', row = ''] = frame([{ ...live2, history: values }], { ...view, width: 120 });
    const at = title.indexOf('HISTORY');
    return row.slice(at, at + 12);
  };
  assert.equal(history([5]), ' '.repeat(12));
  assert.equal(history([100 * 1024 * 1024, 0]), `${' '.repeat(10)}#_`);
});

test('colours mark what is near its limit, and OOM kills; never without a terminal', () => {
  const row = { ...live2, memory: { ...live2.memory, usedBytes: 85 * 1024 * 1024 }, pids: 20, newKills: 1 };
  const [, , , shown = ''] = frame([row], { ...view, styled: true });
  const dressed = [...shown.matchAll(/\x1b\[(\d+)m([^\x1b]+)\x1b\[m/g)].map(([, style, text]) => [
    style,
    text,
  ]);
  assert.deepEqual(dressed, [
    ['33', '85M / 100M'],
    ['33', '[########..]'],
    ['31', '20 / 20'],
    ['33', '50.0%'],
    ['31', '1 (own)'],
  ]);
  assert.doesNotMatch(frame([row], view).join(''), /\x1b/);
});

test('without a UTF-8 locale all is ASCII', () => {
  const row = { ...live2, name: 'grün', command: '日本語 '.repeat(80), memory: { ...live2.memory } };
  for (const line of frame([row, row, row], { ...view, width: 79, height: 5 }))
    assert.match(line, /^[\x20-\x7e]*$/);
  assert.deepEqual([cut('abcdef', 4, false, false), cut('abcdef', 4, true, false)], ['abc>', '<def']);
});

test('what a container calls itself does not reach the terminal', () => {
  const row = { ...live2, name: 'a\x1b[2Jb', command: 'x\ny\x9b' };
  for (const line of frame([row], view)) assert.doesNotMatch(line, /[\x00-\x1f\x7f-\x9f]/);
});

test('the host is read: CPU time, memory, swap, pressure', () => {
  const stat = 'cpu  100 0 50 800 40 5 5 0 30 0\ncpu0 50 0 0 0\ncpu1 50 0 0 0\nintr 1\n';
  assert.deepEqual(parseCpuTicks(stat), { busy: 160, total: 1000, cpus: 2 });
  assert.equal(parsePressure('some avg10=1.53 avg60=0.87 avg300=0.29 total=1\nfull avg10=0.00\n'), 1.53);
  assert.equal(parsePressure(undefined), null);
  const meminfo =
    'MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n';
  assert.deepEqual(parseMeminfo(meminfo), {
    memory: { usedBytes: 600 * 1024, totalBytes: 1000 * 1024 },
    swap: { usedBytes: 30 * 1024, totalBytes: 50 * 1024 },
  });
  const line = hostLine({
    ...{ cpuPercent: 25, cpus: 2, ...parseMeminfo(meminfo) },
    pressure: { cpu: 1.5, memory: 0, io: 0 },
  });
  assert.equal(line, 'host: CPU 25/200  memory 600K/1000K  swap 30K/50K  PSI: CPU 1.5% mem 0% I/O 0%');
});

/** Presses keys one after the other. */
function pressAll(keys: string[], rows = [live, other]) {
  let state = startState;
  let action: string | undefined;
  for (const key of keys) ({ state, action } = press(state, key, rows) as never);
  return { ...state, action };
}
const other = { ...live, pid: 200, name: 'db', command: 'postgres' };

test('keys mark, open, filter, and stop only after a question', () => {
  const [one, two] = [keyOf(live), keyOf(other)];
  const selected = (...keys: string[]) => pressAll(keys).selected;
  assert.deepEqual([selected('down'), selected('down', 'down'), selected('up')], [one, two, one]);
  assert.equal(selected('down', 'down', 'down'), two, 'the last one');
  assert.equal(selected('down', 'escape'), undefined);
  assert.deepEqual([pressAll(['enter']).mode, pressAll(['enter']).selected], ['page', one]);
  assert.equal(pressAll(['enter', 'x']).mode, 'table');
  assert.equal(pressAll(['?']).mode, 'keys');
  assert.equal(pressAll(['?', 'escape']).mode, 'table');
  assert.equal(pressAll(['m', 'r']).order, 'memory');
  assert.equal(pressAll(['m', 'r']).reversed, true);
  for (const key of ['q', '\x03', '\x04', '']) assert.equal(pressAll([key]).action, 'quit');

  assert.equal(pressAll(['/', 'D', 'b', 'x', 'backspace']).filter, 'Db');
  assert.equal(pressAll(['/', 'q']).action, undefined, 'q is a letter of the filter');
  assert.deepEqual(
    [pressAll(['/', 'd', 'enter']).mode, pressAll(['/', 'd', 'enter']).filter],
    ['table', 'd'],
  );
  assert.equal(pressAll(['/', 'd', 'escape']).filter, '');
  assert.equal(pressAll(['/', '\x03']).action, 'quit');
  assert(passes('POST', other) && passes('bare', other) && !passes('post', live));

  assert.deepEqual([pressAll(['k']).mode, pressAll(['k']).action], ['question', undefined]);
  assert.equal(
    prompt(pressAll(['down', 'down', 'k']), [live, other]),
    'stop db (PID 200)? y: yes  any other key: no',
  );
  assert.deepEqual([pressAll(['k', 'y']).action, pressAll(['k', 'y']).mode], ['stop', 'table']);
  for (const key of ['n', 'enter', 'escape', 'k', 'q'])
    assert.equal(pressAll(['k', key]).action, undefined, key);
  assert.equal(
    press({ ...startState, mode: 'question', selected: one }, 'y', [other]).action,
    undefined,
    'it is gone',
  );
  assert.equal(pressAll(['k', 'y'], []).action, undefined, 'there is none');
});

test('a terminal sends keys as characters and sequences', () => {
  assert.deepEqual(keysIn('a\x1b[A\x1bOB\r'), ['a', 'up', 'down', 'enter']);
  assert.deepEqual(keysIn('\x1b'), ['escape']);
  assert.deepEqual(keysIn('\x1b[1;5C\x1b[3~\x1b[15~x'), ['x'], 'others are no keys of the table');
  assert.deepEqual(keysIn('ü\x7f'), ['ü', 'backspace']);
});

test('a frame shows the marked row, also below the end of the screen, and only rows that pass the filter', () => {
  const rows = Array.from({ length: 30 }, (_, index) => ({
    ...live2,
    name: `box-${index}`,
    pid: 100 + index,
  }));
  const shown = (more: Partial<View>) => frame(rows, { ...view, order: 'name', height: 10, ...more });
  const last = rows.find(({ name }) => name === 'box-9') as Live;
  assert.equal(shown({}).filter((line) => line.startsWith('box-')).length, 6);
  const lines = shown({ selected: keyOf(last) });
  assert.match(lines.find((line) => line.startsWith('> ')) ?? '', /^> box-9 /);
  assert.equal(lines.length, 10);
  const styled = shown({ selected: keyOf(last), styled: true });
  assert(styled.some((line) => line.startsWith('\x1b[7mbox-9 ') && line.endsWith('\x1b[m')));
  const some = shown({ filter: 'BOX-2' });
  assert.match(some[0] ?? '', /11 containers, .*, only those with "BOX-2"$/);
  assert.equal(some.filter((line) => /^box-/.test(line)).length, 6);
  assert(some.every((line) => !/^box-1/.test(line)));
  assert.match(frame(rows, { ...view, prompt: 'stop x?' })[1] ?? '', /^stop x\?$/);
});

test('columns stay where they are when values get shorter', () => {
  const widths: number[] = [];
  const at = (row: Live) => frame([row], { ...view, widths })[2]?.indexOf('COMMAND');
  const wide = at({ ...live2, name: 'a-long-name-for-a-container' });
  assert.equal(at({ ...live2, name: 'b', pids: 1 }), wide);
  assert(Number(frame([{ ...live2, name: 'b' }], view)[2]?.indexOf('COMMAND')) < Number(wide));
});

/** One look as `--watch --json` prints it. */
interface Tick {
  time: string;
  containers: (Omit<Live, 'history' | 'newKills'> & Record<string, unknown>)[];
}

async function ticks(...words: string[]): Promise<Tick[]> {
  const { code, stdout, stderr } = await call('ps', ['--watch', '--json', ...words]);
  assert.equal(code, 0, stderr);
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

/** Seconds, more of them where the processor is emulated and one look takes as long. */
const slowly = (seconds: number) => (needs('speed') ? seconds * 10 : seconds);

const busy = ['sh', '-c', 'while :; do :; done'];
const hierarchies = readHierarchies();

/** Writes a limit of a container of ours; v1's file or v2's. */
function limit(name: string, controller: string, v1: [string, string], v2: [string, string]): void {
  const hierarchy = findHierarchy(hierarchies, controller);
  assert(hierarchy, controller);
  const [file, value] = hierarchy.version === 1 ? v1 : v2;
  writeFileSync(join(hierarchy.mountPoint, parent, name, file), value);
}

test(
  'what containers do is shown tick by tick, with and without a cgroup of their own',
  container,
  async () => {
    const limited = await start(['--memory', '50M'], busy);
    limit(limited.name, 'cpu', ['cpu.cfs_quota_us', '5000'], ['cpu.max', '5000 100000']);
    limit(limited.name, 'pids', ['pids.max', '30'], ['pids.max', '30']);
    const byHand = await startByHand(busy);
    const began = Date.now();
    // user and system time in ticks of 1/100 s
    const workOf = () => (Number(stat(byHand.first)[11]) + Number(stat(byHand.first)[12])) / 100;
    const before = workOf();
    const [one, two, ...rest] = await ticks('--count', '2', '--interval', '1');
    const all = workOf() - before;
    assert(one && two && rest.length === 0);
    assert.ok(Date.parse(one.time) - began > 900 && Date.parse(two.time) > Date.parse(one.time));
    for (const { containers } of [one, two]) {
      const row = containers.find(({ pid }) => pid === limited.first);
      assert(row, 'the limited one');
      const { cpuPercent, throttledPercent, memory, limits, estimated, name } = row;
      assert.equal(name, limited.name);
      assert.ok(cpuPercent !== null && cpuPercent > 0.5 && cpuPercent < 15, `CPU ${cpuPercent}`);
      assert.ok(throttledPercent !== null && throttledPercent > 1, `throttled ${throttledPercent}`);
      assert.deepEqual(limits, { memoryBytes: 50 * 1024 * 1024, cpus: 0.05, pids: 30 });
      assert.deepEqual([memory.source, memory.limitBytes], ['cgroup', limits.memoryBytes]);
      assert.deepEqual(estimated, []);

      const other = containers.find(({ pid }) => pid === byHand.first);
      assert(other, 'the one made by hand');
      assert.deepEqual(other.estimated, ['cpu', 'io', 'memory']);
      assert.ok(other.cpuPercent !== null && other.cpuPercent < 120, `CPU ${other.cpuPercent}`);
      // between the looks it can't have done more than in all of the time, and on a busy machine it does little
      const did = (other.cpuPercent / 100) * ((Date.parse(two.time) - Date.parse(one.time)) / 1000);
      assert.ok(did > 0.05 * all && did <= all + 0.1, `${did} s of ${all} s`);
      assert.deepEqual([other.throttledPercent, other.limits.cpus, other.oomKills], [null, null, null]);
      for (const { cpuPercent, readBytesPerSecond, writeBytesPerSecond } of containers)
        for (const rate of [cpuPercent, readBytesPerSecond, writeBytesPerSecond])
          assert.ok(rate === null || rate >= 0, String(rate));
    }
    const { stdout } = await call('ps', ['--watch', '--count', '1', '--interval', '0.5']);
    assert.doesNotMatch(stdout, /\x1b/);
    assert.match(stdout, / container.*, every 0\.5 s, by CPU\nhost: .*\nNAME +PID +CPU% +MEMORY /);
    assert.match(
      stdout,
      new RegExp(`^${limited.name} +${limited.first} +[\\d.]+ / 5 +[\\d.]+[KM] / 50M `, 'm'),
    );
    assert.match(stdout, new RegExp(`^- +${byHand.first} +~[\\d.]+ `, 'm'));
  },
);

test('a container that ends meanwhile is gone, and one that begins is new', container, async () => {
  const { first, end, name } = await start([], ['sleep', '100']);
  const watch = spawn(script('ps'), ['--watch', '--json', '--interval', String(slowly(0.3))], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = once(watch, 'exit');
  const errors = text(watch.stderr);
  let output = '';
  watch.stdout.setEncoding('utf8').on('data', (part) => {
    output += part;
  });
  const last = () => {
    const line = output.split('\n').at(-2);
    return line ? (JSON.parse(line) as Tick).containers.map((row) => row.name) : [];
  };
  try {
    await until('its row', () => last().includes(name));
    process.kill(first, 'SIGKILL');
    await end;
    await until('its row to go', () => !last().includes(name));
    const later = await start([], ['sleep', '101']);
    await until('the row of another', () => last().includes(later.name));
    // nobody reads any more
    watch.stdout.destroy();
    assert.deepEqual(await ended, [0, null]);
    assert.equal(await errors, '');
  } finally {
    watch.kill('SIGKILL');
  }
});

test('bytes that a container writes to a disk are counted', {
  skip: container.skip || needs('speed'),
}, async () => {
  const io = findHierarchy(hierarchies, 'blkio') ?? findHierarchy(hierarchies, 'io');
  const command =
    'while :; do dd if=/dev/zero of=/watched bs=64k count=16 oflag=direct 2>/dev/null; sleep 0.02; done; rm -f /watched';
  const { first, name } = await start([], ['sh', '-c', command]);
  try {
    const [tick] = await ticks('--count', '1', '--interval', '1');
    const row = tick?.containers.find(({ pid }) => pid === first);
    const file = io?.version === 1 ? 'blkio.throttle.io_service_bytes_recursive' : 'io.stat';
    const path = join(io?.mountPoint ?? '', parent, name, file);
    // on a file system without a disk, as the rootfs may be on, there is nothing to count
    if (existsSync(path) && /(Write |wbytes=)[1-9]/.test((await execute(['cat', path])).stdout))
      assert.ok((row?.writeBytesPerSecond ?? 0) > 100_000, String(row?.writeBytesPerSecond));
    else assert.equal(row?.writeBytesPerSecond, 0);
  } finally {
    process.kill(first, 'SIGKILL');
    await execute(['rm', '-f', join(script('ps'), '../../rootfs/host/watched')]);
  }
});

// Runs a program in a terminal of its own: 'size ROWS COLUMNS', 'type TEXT' and 'kill SIGNAL' as lines of input, its
// output on stdout, at its end how it ended and whether the terminal is as it was on stderr
const terminalProgram = `
import fcntl, json, os, pty, select, signal, struct, subprocess, sys, termios
size = lambda rows, columns: fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
master, slave = pty.openpty()
size(int(sys.argv[1]), int(sys.argv[2]))
before = termios.tcgetattr(slave)
child = subprocess.Popen(sys.argv[3:], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
commands = b''
while True:
    ready = select.select([master, 0], [], [], 0.02)[0]
    if master in ready:
        os.write(1, os.read(master, 65536))
    elif child.poll() is not None:
        break
    if 0 in ready:
        commands += os.read(0, 4096)
        while b'\\n' in commands:
            line, commands = commands.split(b'\\n', 1)
            word, rest = line.decode().split(' ', 1)
            if word == 'size': size(*map(int, rest.split()))
            if word == 'type': os.write(master, json.loads(rest).encode())
            if word == 'kill': child.send_signal(getattr(signal, rest))
print(json.dumps({'code': child.returncode, 'restored': termios.tcgetattr(slave) == before}), file=sys.stderr)
`;

/** `ps --watch` in a terminal. */
function terminal(words: string[], env: NodeJS.ProcessEnv = {}) {
  // rows for the containers of other tests, too
  const argv = ['-c', terminalProgram, '80', '100', process.execPath, script('ps'), '--watch', ...words];
  const child = spawn('python3', argv, { env: { ...process.env, LANG: 'C.UTF-8', LC_ALL: '', ...env } });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (part) => {
    output += part;
  });
  const report = text(child.stderr);
  return {
    output: () => output,
    /** the lines of the last frame that is complete */
    frame: () =>
      (output.split('\x1b[J').at(-2)?.split('\x1b[H').at(-1) ?? '')
        .replace(/\x1b\[[\d;?]*[a-zA-Z]/g, '')
        .split(/\r+\n/), // the terminal adds one
    tell: (command: string) => child.stdin.write(`${command}\n`),
    type: (keys: string) => child.stdin.write(`type ${JSON.stringify(keys)}\n`),
    /** waits for a frame with something in it */
    async shows(pattern: RegExp): Promise<string[]> {
      return until(
        `${pattern} in ${JSON.stringify(output)}`,
        () => pattern.test(this.frame().join('\n')) && this.frame(),
      );
    },
    async end() {
      return JSON.parse(await report) as { code: number; restored: boolean };
    },
    kill: () => child.kill('SIGKILL'),
  };
}

const inTerminal = { skip: container.skip || needs('python3') };
const enter = '\x1b[?1049h\x1b[?25l\x1b[?7l';
const leave = '\x1b[?7h\x1b[?25h\x1b[?1049l';

test('in a terminal it fills the screen, follows keys and size, and gives it back', inTerminal, async () => {
  const one = await start(['--memory', '40M'], busy);
  const two = await start([], ['sleep', '100']);
  const screen = terminal(['--interval', String(slowly(0.5))]);
  try {
    const lines = await screen.shows(new RegExp(`${one.name} +${one.first} +\\d`));
    assert.match(lines[0] ?? '', /^\d\d:\d\d:\d\d {2}\d+ containers, every [\d.]+ s, by CPU$/);
    assert.match(lines[1] ?? '', /^host: CPU [\d.-]+\/\d+00 {2}memory [\d.]+[MG]\/[\d.]+G {2}swap /);
    assert.match(lines[2] ?? '', /^c CPU {2}m memory .* q quit$/);
    assert.match(lines.find((line) => line.startsWith(one.name)) ?? '', /[KM] \/ 40M {2}▕.*▏ /);
    assert.match(lines.join('\n'), /[▁▂▃▄▅▆▇█]{2}/);
    const order = (lines: string[]) =>
      [one, two].map(({ name }) => lines.findIndex((line) => line.startsWith(name)));
    assert.ok((order(lines)[0] as number) < (order(lines)[1] as number), 'the busy one is first');
    screen.type('n');
    assert.deepEqual(
      order(await screen.shows(/by name/)),
      order(screen.frame()).sort((a, b) => a - b),
    );
    screen.type('r');
    const reversed = order(await screen.shows(/by name, reversed/));
    assert.ok((reversed[0] as number) > (reversed[1] as number), 'the first name is last');
    for (const [key, name] of [
      ['m', 'memory'],
      ['p', 'PIDs'],
      ['i', 'I/O'],
      ['c', 'CPU'],
    ]) {
      screen.type(key as string);
      await screen.shows(new RegExp(`by ${name}`));
    }
    screen.tell('size 4 40');
    const small = await screen.shows(/^[^\n]{1,39}\n[^\n]{1,39}\nNAME[^\n]*\n…/);
    assert.equal(small.length, 4);
    assert.match(small[3] ?? '', /^… and \d+ more$/);
    screen.tell('size 80 200');
    await screen.shows(/COMMAND *\n[\s\S]*while :; do :; done/);
    // there is nobody who could continue it, so it is not stopped
    screen.type('\x1a');
    await until('it to go on', () => screen.output().split(enter).length > 2);
    screen.type('q');
    assert.deepEqual(await screen.end(), { code: 0, restored: true });
    assert.ok(screen.output().startsWith(enter), JSON.stringify(screen.output().slice(0, 50)));
    assert.ok(screen.output().endsWith(leave), JSON.stringify(screen.output().slice(-50)));
  } finally {
    screen.kill();
  }
});

test(
  'on a terminal: the keys, a page, a filter, and a container stopped after a question',
  inTerminal,
  async () => {
    const one = await start(['--memory', '40M'], ['sleep', '100']);
    const screen = terminal(['--interval', String(slowly(0.5))]);
    try {
      await screen.shows(new RegExp(`${one.name} `));
      screen.type('?');
      await screen.shows(/stop the marked container.*any other key: back/s);
      screen.type(' ');
      await screen.shows(/^host: /m);
      screen.type(`/${one.name}`);
      await screen.shows(new RegExp(`^show only: ${one.name}_`, 'm'));
      screen.type('\r');
      await screen.shows(new RegExp(`1 container, [^\n]*only those with "${one.name}"`));
      screen.type('\r');
      const page = (await screen.shows(/^memory: .* 40/m)).join('\n');
      assert.match(page, new RegExp(`^container: ${one.name}, made by barehand`, 'm'));
      assert.match(page, new RegExp(`^ *${one.first} +[\\d.]+ [KM]iB +sleep 100$`, 'm'));
      screen.type('x');
      await screen.shows(/^host: /m);
      screen.type('kn');
      await screen.shows(/\? keys/);
      assert.equal(existsSync(`/proc/${one.first}`), true, 'n is no');
      screen.type('k');
      await screen.shows(new RegExp(`^stop ${one.name} \\(PID ${one.first}\\)\\? y: yes`, 'm'));
      screen.type('y');
      await screen.shows(new RegExp(`^${one.first}: killed, for its first process`, 'm'));
      await one.end;
      screen.type('q');
      assert.deepEqual(await screen.end(), { code: 0, restored: true });
    } finally {
      screen.kill();
    }
  },
);

test('however it ends, the terminal is as it was', inTerminal, async () => {
  const ends = async (
    how: string,
    act: (screen: ReturnType<typeof terminal>) => void,
    code: number,
    env = {},
  ) => {
    const screen = terminal(['--interval', String(slowly(0.4))], env);
    try {
      await screen.shows(/ containers?, /);
      act(screen);
      assert.deepEqual(await screen.end(), { code, restored: true }, how);
      return screen.output().split(leave).at(-1);
    } finally {
      screen.kill();
    }
  };
  const thrown = "process.once('SIGUSR2',()=>{throw%20new%20Error('boom')})";
  const failing = { NODE_OPTIONS: `--import "data:text/javascript,${thrown}"` };
  const ways = [
    async () => assert.equal(await ends('Ctrl-C', ({ type }) => type('\x03'), 0), ''),
    // the message comes when the screen is back
    async () =>
      assert.equal(await ends('an error', ({ tell }) => tell('kill SIGUSR2'), 1, failing), 'ps: boom\r\n'),
    ...(['SIGTERM', 'SIGHUP', 'SIGINT', 'SIGQUIT'] as const).map((signal) => async () => {
      assert.equal(await ends(signal, ({ tell }) => tell(`kill ${signal}`), -constants.signals[signal]), '');
    }),
  ];
  // an emulated processor takes them one by one, and not all
  if (needs('speed')) for (const way of ways.slice(0, 4)) await way();
  else await Promise.all(ways.map((way) => way()));
});

test('--count ends it, and leaves nothing on the terminal', inTerminal, async () => {
  const screen = terminal(['--count', '1', '--interval', '0.1']);
  assert.deepEqual(await screen.end(), { code: 0, restored: true });
  assert.ok(screen.output().endsWith(leave));
});
