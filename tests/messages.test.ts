// Parts of messages: text of others, and suggestions.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { didYouMean, escapeControls } from '../scripts/helpers/messages.ts';

test('control characters are shown, not sent to the terminal; all other text stays', () => {
  assert.equal(
    escapeControls('a\x1b]0;b\x07\nc\x7f\x9b\t\r\0'),
    'a\\x1b]0;b\\x07\\nc\\x7f\\x9b\\x09\\x0d\\x00',
  );
  assert.equal(escapeControls("ä 'b' \\ 漢"), "ä 'b' \\ 漢");
});

test('the nearest name is suggested: letters missing, more, wrong or swapped, in either case', () => {
  const names = ['quiet', 'max-size', 'max-entries', 'dry-run'];
  for (const [word, name] of [
    ['quite', 'quiet'],
    ['quiett', 'quiet'],
    ['qiet', 'quiet'],
    ['QUIET', 'quiet'],
    ['maxsize', 'max-size'],
    ['max-entires', 'max-entries'],
    ['dryRun', 'dry-run'],
  ] as const)
    assert.equal(didYouMean(word, names, '--'), `: did you mean --${name}?`, word);
  assert.equal(didYouMean('a\x1b', ['a\x1bb']), ': did you mean a\\x1bb?');
});

test('what is not near is not suggested, nor the word itself', () => {
  for (const word of ['no-such-option', 'q', 'dry', 'quiet'])
    assert.equal(didYouMean(word, ['quiet']), '', word);
  assert.equal(didYouMean('x', []), '');
});
