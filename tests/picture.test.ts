// docs/session.svg, the picture of a session in README.md: what it shows is what the commands print.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { container, newName } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { top } from './helpers/script.ts';

// @ts-expect-error: it is no part of the program
const { draw, runSession } = await import('../docs/session.mjs');

/** The text of a picture, with marks in place of numbers, which differ from run to run; ps.ts has columns as it needs. */
function textOf(svg: string): string[] {
  const lines = [...svg.matchAll(/<text [^>]*>(.*)<\/text>/g)].map(([, text = '']) => text);
  const whole = lines.join('').replace(/NAME .*?(?=# scripts)/, 'TABLE');
  return whole
    .replace(/[\d.]+ [KMG]iB/g, 'SIZE')
    .replace(/PID \d+/g, 'PID N')
    .replace(/ +/g, ' ')
    .split('# ');
}

test('the picture shows what the session prints', { skip: container.skip || needs('ps') }, () => {
  const picture = readFileSync(join(top, 'docs/session.svg'), 'utf8');
  const texts = textOf(picture);
  assert(texts.length > 5);
  assert.deepEqual(texts, textOf(draw(runSession(newName()))));
});

test('what is drawn is text of XML', () => {
  const svg = draw(['# echo "<b>&"', '<script>']);
  assert(svg.includes('&lt;script&gt;') && svg.includes('&lt;b&gt;&amp;'));
  assert.doesNotMatch(svg, /<script|href/);
});
