#!/bin/sh
// 2>/dev/null; exec "$(dirname "$(readlink -f "$0")")/helpers/node-ts" "$0" "$@"
/*
fetch-rootfs.ts: a root file system is just a tarball: get one, check it, unpack it

USAGE
  fetch-rootfs.ts [SOURCE] [DEST]
*/
import { chmodSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Failure, main } from './helpers/cli.ts';
import { makeHostRootfs } from './helpers/host-rootfs.ts';
import { formatSize } from './helpers/units.ts';

const rootfsFolder = resolve(dirname(fileURLToPath(import.meta.url)), '..', 'rootfs');

await main(
  import.meta.url,
  { options: {}, operands: [0, 2] },
  async (_, [source = 'host:', dest = 'host']) => {
    process.umask(0o022);
    const path = dest.includes('/') || dest === '.' ? resolve(dest) : join(rootfsFolder, dest);
    if (existsSync(path) && readdirSync(path).length)
      throw new Failure(`cannot unpack into ${path}: it exists`);
    const partial = join(dirname(path), `.${basename(path)}.partial-${process.pid}`);
    mkdirSync(partial, { recursive: true });
    try {
      const made = await makeHostRootfs(
        partial,
        source
          .replace(/^host:/, '')
          .split(',')
          .filter(Boolean),
      );
      chmodSync(partial, 0o755);
      renameSync(partial, path);
      console.error(
        `${made.programs.length} programs, ${made.files} files, ${formatSize(made.bytes)}; not on this host: ${made.missing.join(' ')}`,
      );
      console.log(path);
    } finally {
      rmSync(partial, { recursive: true, force: true });
    }
    return undefined;
  },
);
