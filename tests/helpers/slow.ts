// For tests that take long. `npm test` is for whoever waits for it, and skips them; `npm run test:all`, and a file that is
// run by itself, do not. A file all of whose tests take long imports these in place of node:test's; none of it is to be
// a script's only test on the kernel.
import * as tests from 'node:test';

const reason = process.env.BAREHAND_QUICK ? 'takes long: npm run test:all' : undefined;

/** test() of node:test, for a test that takes long. */
export const test: typeof tests.test = reason
  ? Object.assign((name?: unknown) => tests.test(String(name), { skip: reason }), tests.test)
  : tests.test;

/** Shells that read what --dry-run prints: sh(1) as most hosts have it, and with all tests another. */
export const shells = reason ? ['dash'] : ['dash', 'bash'];

/** before() of such tests: what prepares them takes its time too. */
export const before: typeof tests.before = reason ? () => undefined : tests.before;
