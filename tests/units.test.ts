import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UsageError } from '../scripts/helpers/cli.ts';
import { formatSize, parseNumber, parseSize } from '../scripts/helpers/units.ts';
import { parseCpus, parseList } from '../scripts/limit/units.ts';
import { parsePeriod } from '../scripts/limit-cpu.ts';

test('a letter and IEC units count in 1024s, SI units in 1000s, a bare number in bytes', () => {
  const sizes: [string, number][] = [
    ['100000000', 100_000_000],
    ['1', 1],
    ['4096b', 4096],
    ['1k', 1024],
    ['1K', 1024],
    ['1KiB', 1024],
    ['1kB', 1000],
    ['100M', 100 * 1024 ** 2],
    ['100m', 100 * 1024 ** 2],
    ['100MiB', 100 * 1024 ** 2],
    ['100MB', 100 * 1000 ** 2],
    ['1.5G', 1.5 * 1024 ** 3],
    ['2gib', 2 * 1024 ** 3],
    ['2gb', 2 * 1000 ** 3],
    ['1T', 1024 ** 4],
    ['10 M', 10 * 1024 ** 2],
    ['0.3k', 307],
    ['007', 7],
  ];
  for (const [text, bytes] of sizes) assert.equal(parseSize(text), bytes, text);
});

test('what is not a size is refused, with what to write', () => {
  const words = [
    '',
    'M',
    '-1',
    '-5M',
    '+5M',
    '1e3',
    '0x10',
    '10X',
    '10MM',
    '10MiBs',
    '1.M',
    '.5M',
    '1,5M',
    'max',
  ];
  for (const text of [...words, 'NaN', 'Infinity', '10M\n', ' 10M', '１０M'])
    assert.throws(
      () => parseSize(text),
      (error) => error instanceof UsageError && /^not a size: ".*": write 100M .*bytes$/s.test(error.message),
      text,
    );
});

test('nothing, and more than can be counted exactly, is out of range', () => {
  for (const text of ['0', '0M', '0.0001k', '9007199254740992', '8192T', '9'.repeat(400)])
    assert.throws(() => parseSize(text), new UsageError(`size out of range: ${text}`), text);
  assert.equal(parseSize('9007199254740991'), Number.MAX_SAFE_INTEGER);
});

test('sizes are told in the unit that people read best', () => {
  const sizes: [number, string][] = [
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [100 * 1024 ** 2, '100 MiB'],
    [9.5 * 1024 ** 2, '9.5 MiB'],
    [123.4 * 1024 ** 2, '123 MiB'],
    [1024 ** 3, '1 GiB'],
    [5000 * 1024 ** 4, '5000 TiB'],
  ];
  for (const [bytes, text] of sizes) assert.equal(formatSize(bytes), text);
});

const refuses = (parse: (text: string) => unknown, texts: string[], message: RegExp) => {
  for (const text of texts)
    assert.throws(
      () => parse(text),
      (error) => error instanceof UsageError && message.test(error.message),
      text,
    );
};

test('numbers are whole and within their range', () => {
  const parse = (text: string) => parseNumber('N', text, 1, 100);
  assert.deepEqual(['1', '100', '007'].map(parse), [1, 100, 7]);
  refuses(
    parse,
    ['', '0', '101', '-1', '1.5', '1e2', '0x1', ' 1', '9'.repeat(40)],
    /^N is a whole number from 1 to 100, not "/,
  );
});

test('CPUs are a number with or without a fraction', () => {
  assert.deepEqual(['1', '1.5', '.5', '0.01', '64'].map(parseCpus), [1, 1.5, 0.5, 0.01, 64]);
  refuses(
    parseCpus,
    ['', '0', '0.001', '-1', '1,5', '1.', '150%', 'all', '1e1', '999999'],
    /^not a number of CPUs/,
  );
});

test('a time is in microseconds unless it says otherwise', () => {
  assert.deepEqual(
    ['50000', '50ms', '1000us', '0.5s', '1.5ms'].map(parsePeriod),
    [50_000, 50_000, 1000, 500_000, 1500],
  );
  refuses(parsePeriod, ['', 'ms', '50 ms', '-5ms', '5m', '1h', '1e3'], /^not a time: /);
  refuses(parsePeriod, ['0', '999', '0.5ms', '1.1s'], /^--period is from 1ms to 1s, not /);
});

test('a list has numbers and ranges in order', () => {
  const parse = (text: string) => parseList('--cpuset', text);
  for (const text of ['0', '0-3', '0,2-3,7', '1-1']) assert.equal(parse(text), text);
  refuses(
    parse,
    ['', '3-1', '0-', ',1', '1,', 'all', '0-1-2', '0 1', '-1', '0\n'],
    /^--cpuset is a list as 0-2,5, not /,
  );
});
