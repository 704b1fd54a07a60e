// The archive that GNU tar writes in the POSIX format, pax(1), as it passes through: its entries, and the one thing in
// it that depends on the file system, the order of extended attributes.
import { createHash, type Hash } from 'node:crypto';
import { Failure } from '../helpers/cli.ts';
import { block, parseNumber, text } from '../images/inspector.ts';

/** An entry of an archive. Names are bytes, one for each character (latin1): they need not be UTF-8. */
export interface Entry {
  /** as tar has it: `./etc/passwd`, `./etc/` for a directory */
  name: string;
  /** `1` is a hard link, `5` a directory, pax(1) */
  type: string;
  /** what a link leads to */
  link: string;
  mtimeSeconds: number;
  /** the sum of all that the archive has about it, its data included; '' if it was not asked for */
  sha256: string;
}

/**
 * Passes on an archive, and calls `see` for each entry when all of it has passed. What list xattr(7) gives in any order
 * is sorted: the same content is then the same bytes. With `sums` each entry gets its sum.
 */
export async function* readEntries(
  archive: AsyncIterable<Buffer>,
  see: (entry: Entry) => void,
  sums = false,
): AsyncGenerator<Buffer> {
  let held: Buffer = Buffer.alloc(0);
  let pax = new Map<string, string>();
  let hash: Hash | undefined;
  let entry: Entry | undefined;
  let dataLeft = 0;
  for await (const chunk of archive) {
    const buffer = held.length > 0 ? Buffer.concat([held, chunk]) : chunk;
    let at = 0;
    while (at < buffer.length) {
      if (dataLeft > 0) {
        const end = Math.min(at + dataLeft, buffer.length);
        hash?.update(buffer.subarray(at, end));
        dataLeft -= end - at;
        at = end;
      } else {
        const header = buffer.subarray(at, at + block);
        if (header.length < block) break;
        const type = header.toString('latin1', 156, 157);
        const size = parseNumber(header, 124, 12, 'size');
        const next = type === 'x' ? at + block + padded(size) : at + block;
        if (next > buffer.length) break;
        if (sums) hash ??= createHash('sha256');
        if (type === 'x') pax = sortRecords(buffer.subarray(at + block, at + block + size));
        else if (header[0] === 0)
          hash = undefined; // the end marker
        else {
          entry = readEntry(header, pax);
          dataLeft = padded(Number(pax.get('size') ?? size));
          if ('12345'.includes(type)) dataLeft = 0;
          pax = new Map();
        }
        hash?.update(buffer.subarray(at, next));
        at = next;
      }
      if (entry && dataLeft === 0) {
        see({ ...entry, sha256: hash?.digest('hex') ?? '' });
        entry = hash = undefined;
      }
    }
    if (at > 0) yield buffer.subarray(0, at);
    held = buffer.subarray(at);
  }
  if (held.length > 0 || dataLeft > 0) throw new Failure('tar ended before its archive did');
}

const padded = (size: number) => Math.ceil(size / block) * block;

function readEntry(header: Buffer, pax: Map<string, string>): Entry {
  const prefix = text(header, 345, 155);
  const name = text(header, 0, 100);
  return {
    name: pax.get('path') ?? (prefix ? `${prefix}/${name}` : name),
    type: header.toString('latin1', 156, 157),
    link: pax.get('linkpath') ?? text(header, 157, 100),
    mtimeSeconds: Number(pax.get('mtime') ?? parseNumber(header, 136, 12, 'mtime')),
    sha256: '',
  };
}

const isAttribute = (record: string) => /^\d+ SCHILY\.xattr\./.test(record);

/** The records `LENGTH KEY=VALUE\n` of a pax header. Those of extended attributes are sorted, in place. */
function sortRecords(payload: Buffer): Map<string, string> {
  const all = payload.toString('latin1');
  const records: string[] = [];
  for (let at = 0; at < all.length; at += records.at(-1)?.length ?? 0) {
    const length = Number.parseInt(all.slice(at, at + 20), 10);
    if (!(length > 0)) throw new Failure('tar wrote an invalid pax header');
    records.push(all.slice(at, at + length));
  }
  const attributes = records.filter(isAttribute);
  if (attributes.length > 1) {
    const key = (record: string) => record.slice(record.indexOf(' '));
    attributes.sort((one, other) => (key(one) < key(other) ? -1 : 1));
    const sorted = records.map((record) => (isAttribute(record) ? (attributes.shift() ?? '') : record));
    payload.write(sorted.join(''), 'latin1');
  }
  return new Map(
    records.map((record) => {
      const [, key = '', value = ''] = /^\d+ ([^=]*)=(.*)\n$/s.exec(record) ?? [];
      return [key, value];
    }),
  );
}

/** The longest name that the header of pax(1) itself has. */
const shortName = 100;

/** An empty file as an entry of an archive: name as bytes (latin1), of root, at a time. */
export function emptyFile(name: string, mtimeSeconds: number): Buffer {
  if (Buffer.byteLength(name, 'latin1') <= shortName) return header(name, '0', 0, mtimeSeconds);
  const rest = ` path=${name}\n`;
  let length = rest.length;
  while (`${length}`.length + rest.length !== length) length = `${length}`.length + rest.length;
  const payload = Buffer.alloc(padded(length));
  payload.write(`${length}${rest}`, 'latin1');
  const own = header(name.slice(0, shortName), '0', 0, mtimeSeconds);
  return Buffer.concat([header('./PaxHeaders/whiteout', 'x', length, mtimeSeconds), payload, own]);
}

function header(name: string, type: string, size: number, mtimeSeconds: number): Buffer {
  const bytes = Buffer.alloc(block);
  const put = (value: number, offset: number, length: number) =>
    bytes.write(
      `${Math.max(0, value)
        .toString(8)
        .padStart(length - 1, '0')}\0`,
      offset,
      'latin1',
    );
  bytes.write(name, 0, 'latin1');
  put(0o600, 100, 8);
  put(0, 108, 8);
  put(0, 116, 8);
  put(size, 124, 12);
  put(Math.floor(mtimeSeconds), 136, 12);
  bytes.write('        ', 148, 'latin1');
  bytes.write(type, 156, 'latin1');
  bytes.write('ustar\x0000', 257, 'latin1');
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return bytes;
}
