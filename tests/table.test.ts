import assert from 'node:assert/strict';
import { test } from 'node:test';
import { table, widthOf, wrap } from '../scripts/helpers/table.ts';

test('columns stand below each other, whatever is in them and however many rows there are', () => {
  const rows = Array.from({ length: 40 }, (_, index) => [
    ['web', '容器', 'ünïcödé', '🐳'][index % 4] ?? '',
    index * 1000,
    `end ${index}`,
  ]);
  const lines = table(['NAME', 'SIZE', 'LAST'], rows, { align: ['left', 'right'] }).split('\n');
  assert.equal(lines.length, 41);
  assert.equal(lines[0], 'NAME       SIZE   LAST');
  for (const [index, line] of lines.slice(1).entries()) {
    const [, name = '', size, last] = /^(\S+)( +\d+) {3}(end \d+)$/.exec(line) ?? [];
    assert.equal(widthOf(name + size), 15, line);
    assert.deepEqual([name, Number(size), last], rows[index]);
  }
});

test('a cell may be empty, and no line ends with blanks', () => {
  assert.equal(
    table(
      ['A', 'B'],
      [
        ['', 1],
        ['long', ''],
      ],
    ),
    'A      B\n       1\nlong',
  );
});

test('text is wrapped at blanks, and in Chinese after any character', () => {
  assert.equal(wrap('one two three', 7), 'one two\nthree');
  assert.equal(wrap('one two', 80), 'one two');
  assert.equal(wrap('unbreakable words', 5), 'unbreakable\nwords');
  assert.equal(wrap('根文件系统只是 tar 包。', 8), '根文件系\n统只是\ntar 包。');
  for (const line of wrap('命令在新的根目录中运行，但 ps 仍然能看到主机上的所有进程。', 20).split('\n'))
    assert(widthOf(line) <= 20, line);
});
