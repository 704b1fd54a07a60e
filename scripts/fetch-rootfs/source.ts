// SOURCE as a tarball: where its bytes come from, and their check.
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync, type Stats, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { scriptPath } from '../helpers/called.ts';
import { Failure, reason, UsageError } from '../helpers/cli.ts';
import { didYouMean } from '../helpers/messages.ts';
import { attempt } from '../helpers/pids.ts';
import { quote } from '../helpers/shell.ts';
import { parseSize } from '../helpers/units.ts';
import type { ArchiveName } from '../images/archives.ts';
import { type Compression, decompress } from '../images/compression.ts';
import { download } from '../images/http.ts';
import type { Platform } from '../images/image.ts';
import { TarInspector } from '../images/inspector.ts';
import { Progress } from '../images/progress.ts';
import type { Reference } from '../images/reference.ts';
import { mayMakeDevices } from '../images/unpack.ts';
import { describeImage, refuseOthers } from './formats.ts';

/** Where a root file system comes from, and where it is made. */
export interface Fetch {
  source: string;
  dest: string;
  /** SOURCE, if it is one */
  url: URL | undefined;
  image: Reference | undefined;
  archive: ArchiveName | undefined;
  /** programs to copy besides the default ones, if SOURCE is this host */
  programs: string[] | undefined;
}

/** The options of fetch-rootfs.ts that tell how SOURCE is read, and what of it is unpacked. */
export interface Settings {
  sha256: string | undefined;
  strip: number | 'auto' | undefined;
  platform: Platform | undefined;
  noCache: boolean;
  registryMirror: URL[];
  insecureRegistry: string[];
  skipDevices: boolean;
  maxSize: number | undefined;
  maxEntries: number | undefined;
  quiet: boolean;
}

/** What may be unpacked, and no more than `freeBytes`. */
export function limitsOf(
  { maxSize = parseSize('20G'), maxEntries = 1_000_000, skipDevices }: Settings,
  freeBytes: number,
) {
  return {
    maxBytes: Math.min(maxSize, freeBytes),
    maxBytesReason:
      maxSize <= freeBytes ? ': --max-size allows more' : ', and no more is free on this file system',
    maxEntries,
    skipDevices: !mayMakeDevices ? ('all' as const) : skipDevices ? ('unusual' as const) : undefined,
  };
}

/** The status of a file that is SOURCE. Throws a Failure with the nearest name if there is none. */
export function statSource(source: string): Stats {
  try {
    return statSync(source);
  } catch (error) {
    const folder = source.slice(0, source.lastIndexOf('/') + 1);
    const names = attempt(() => readdirSync(folder || '.')) ?? [];
    const near = didYouMean(source.slice(folder.length), folder ? names : ['host:', ...names], folder);
    throw new Failure(`${reason(error)}${near}`, { cause: error });
  }
}

/** The bytes of SOURCE. `total` gets their number as soon as it is known. */
function openSource(
  fetch: Fetch,
  total: { length?: number | undefined },
  onRetry: (text: string) => void,
): AsyncIterable<Buffer> {
  const { source, url, dest } = fetch;
  if (url) return download(url, { total, onRetry });
  if (source === '-') {
    if (process.stdin.isTTY)
      throw new UsageError(
        'standard input is a terminal: redirect it, as by <FILE, or give the path of a tarball as SOURCE',
      );
    return process.stdin;
  }
  const stat = statSource(source);
  if (stat.isDirectory() && existsSync(join(source, 'oci-layout')))
    throw new Failure(describeImage('oci', fetch));
  if (stat.isDirectory())
    throw new Failure(
      `EISDIR: it is a directory: pack it: tar -C ${quote(source)} -c . | ${scriptPath()} - ${quote(dest)}`,
    );
  if (stat.isFile()) total.length = stat.size;
  return createReadStream(source, { highWaterMark: 1 << 18 });
}

/**
 * Reads and checks the archive SOURCE. `checked` is what tar(1) may read of it; it throws at its end if --sha256 is
 * another sum. No archive may unpack to more than `freeBytes`.
 */
export function openTarball(fetch: Fetch, values: Settings, freeBytes: number, say: (text: string) => void) {
  const inspector = new TarInspector({ ...limitsOf(values, freeBytes), strip: values.strip ?? 'auto' });
  const hash = createHash('sha256');
  const total = {};
  async function* read() {
    for await (const chunk of openSource(fetch, total, say)) {
      hash.update(chunk);
      yield chunk;
    }
  }
  const archive = { inspector, sha256: '', checked: check() };
  const judge = (start: Buffer, outer?: Compression) => refuseOthers(start, fetch, outer);
  async function* check() {
    const bytes = values.quiet ? read() : new Progress().show(read(), basename(fetch.source), total);
    try {
      for await (const chunk of decompress(bytes, judge)) yield* inspector.push(chunk);
      inspector.end();
    } catch (error) {
      throw inspector.image ? new Failure(describeImage(inspector.image, fetch)) : error;
    }
    if (inspector.image) throw new Failure(describeImage(inspector.image, fetch));
    archive.sha256 = hash.digest('hex');
    if (values.sha256 && archive.sha256 !== values.sha256)
      throw new Failure(`its sha256 is ${archive.sha256}, not ${values.sha256}`);
  }
  return archive;
}
