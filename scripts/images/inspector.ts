// Checks a tar archive in the stream: tar(1) gets no header that was not checked.
// Formats: POSIX pax and ustar (pax(1)), GNU (the "Tar Internals" of GNU tar's manual).
import { Failure, reason } from '../helpers/cli.ts';
import { formatSize } from '../helpers/units.ts';

/** the size of a header, and what data are padded to */
export const block = 512;
const none = Buffer.alloc(0);
const noMagic = '\0'.repeat(8);
/** longest payload of a pax header: file systems end extended attributes at 64 KiB */
const maxMetadataBytes = 1 << 20;
/** longest path that the kernel takes, path_resolution(7) */
const maxPathBytes = 4095;
/** tar pads its end to a record, which is 10 KiB and at most 1 MiB where someone chose so */
const maxPaddingBytes = 1 << 24;

/** The limits of an archive. */
export interface Limits {
  /** the maximum total size of all files */
  maxBytes: number;
  /** the end of the error message: names `--max-size` or the free space */
  maxBytesReason: string;
  maxEntries: number;
  /** leading components to remove from each name; `auto` removes a single top directory */
  strip: number | 'auto';
  /** device nodes to leave out: those that no rootfs needs, or all */
  skipDevices: 'unusual' | 'all' | undefined;
  /**
   * The archive is a layer of an image: it may be empty, and whether it is whole is verified by its digest. Called with
   * the type and the path of each entry, as bytes in latin1, '' for the root; false leaves the entry out.
   */
  layer?: (type: string, path: string) => boolean;
}

/** A directory's own attributes, as the archive has them. */
export interface Attributes {
  mode: number;
  uid: number;
  gid: number;
  /** seconds since 1970, with what fraction there is */
  mtime: string;
}

interface Entry extends Attributes {
  type: string;
  name: string;
  link: string;
  /** bytes in the archive, and bytes once unpacked: more where a file is sparse */
  size: number;
  realSize: number;
  device: string;
  /** where its data begins in the buffer */
  end: number;
}

/** The character devices in /dev that debootstrap(8) makes. Others give access to the host. */
export const usualDevices = {
  null: '1:3',
  zero: '1:5',
  full: '1:7',
  random: '1:8',
  urandom: '1:9',
  tty: '5:0',
  console: '5:1',
  ptmx: '5:2',
};

const rootDirectories =
  'bin boot dev etc home lib lib32 lib64 libx32 media mnt opt proc root run sbin selinux srv sys tmp usr var'.split(
    ' ',
  );

/** What docker save, and others who write images of layers, put into an archive, and nothing else. */
const imageDirectory = /^(blobs\/)?[^/]+$/;
const imageFile =
  /^(oci-layout|repositories|[^/]+\.(json|tar)|[^/]+\/(VERSION|json|layer\.tar)|blobs\/\w+\/\w+)$/;

/**
 * Reads the headers of a tar archive that comes in chunks, and throws a Failure at the first thing that is wrong.
 * It is no second opinion on what a name means: tar runs confined. It refuses what tar would let pass.
 */
export class TarInspector {
  entries = 0;
  /** the total size of the unpacked files */
  bytes = 0;
  skippedDevices = 0;
  /** leading components that tar has to strip; undefined until the first entries are read */
  strip: number | undefined;
  /** of the entry that becomes the root */
  rootAttributes: Attributes | undefined;

  /** what the archive is if all its entries are those of an image of layers: a transport of skopeo(1) */
  get image(): 'docker-archive' | 'oci-archive' | undefined {
    return this.#isImage ? this.#image : undefined;
  }

  #isImage = true;
  #image: 'docker-archive' | 'oci-archive' | undefined;
  #limits: Limits;
  /** the begin of a header whose rest is yet to come, and what is good but must wait for `strip` */
  #held: Buffer = none;
  #waiting: Buffer[] = [];
  #top: string | undefined;
  #current = '';
  #dataLeft = 0;
  /** whether the data that are left belong to an entry that is left out */
  #skips = false;
  #zeroBlocks = 0;
  #padding = 0;
  #received = 0;

  constructor(limits: Limits) {
    this.#limits = limits;
    if (limits.strip !== 'auto') this.strip = limits.strip;
  }

  /** Checks the next chunk. Returns the checked part: whole headers and data, but nothing after the end marker. */
  push(chunk: Buffer): Buffer[] {
    this.#received += chunk.length;
    const buffer = this.#held.length ? Buffer.concat([this.#held, chunk]) : chunk;
    let from = 0;
    let at = 0;
    while (at < buffer.length && this.#zeroBlocks < 2) {
      if (this.#dataLeft > 0) {
        const length = Math.min(this.#dataLeft, buffer.length - at);
        this.#dataLeft -= length;
        at += length;
        if (this.#skips) from = at;
      } else if (buffer.length - at < block) {
        break;
      } else if (isZero(buffer.subarray(at, at + block))) {
        this.#zeroBlocks++;
        at += block;
      } else {
        if (this.#zeroBlocks > 0)
          throw new Failure('data follow a single block of zeros, where an archive ends with two');
        const entry = this.#read(buffer, at);
        if (!entry) break;
        const isWanted = this.#judge(entry);
        this.#skips = this.#leavesOut(entry) || !isWanted;
        if (this.#skips) {
          this.#waiting.push(buffer.subarray(from, at));
          from = entry.end;
        }
        this.#dataLeft = Math.ceil(entry.size / block) * block;
        at = entry.end;
      }
    }
    this.#waiting.push(buffer.subarray(from, at));
    this.#held = buffer.subarray(at);
    if (this.#zeroBlocks === 2) {
      this.strip ??= 0;
      this.#padding += this.#held.length;
      if (!isZero(this.#held)) throw new Failure('data follow the end marker');
      if (this.#padding > maxPaddingBytes)
        throw new Failure(`more than ${formatSize(maxPaddingBytes)} of zeros follow the end marker`);
      this.#held = none;
    }
    if (Math.max(this.#received, this.bytes) > this.#limits.maxBytes)
      throw new Failure(
        `it unpacks to more than ${formatSize(this.#limits.maxBytes)}${this.#limits.maxBytesReason}`,
      );
    return this.strip === undefined ? [] : this.#waiting.splice(0).filter((part) => part.length > 0);
  }

  /** Ends the check after the last chunk. Throws a Failure if the archive is truncated or not an archive. */
  end(): void {
    if (this.#received === 0 && !this.#limits.layer) throw new Failure('it is empty');
    if (this.#dataLeft > 0) throw new Failure(`it is truncated in the data of ${show(this.#current)}`);
    if (this.#limits.layer && this.#held.length === 0) return;
    if (this.#zeroBlocks < 2)
      throw new Failure(
        this.entries === 0
          ? 'it is too short for a tar archive'
          : `it is truncated: no end marker after ${show(this.#current)}`,
      );
    if (this.entries === 0) throw new Failure('it is a tar archive without entries');
  }

  #read(buffer: Buffer, at: number): Entry | undefined {
    try {
      return readEntry(buffer, at);
    } catch (error) {
      if (this.entries === 0) throw error;
      throw new Failure(`after ${show(this.#current)}: ${reason(error)}`, { cause: error });
    }
  }

  /** Throws a Failure if there is anything wrong with an entry. false: it is left out of the layer. */
  #judge(entry: Entry): boolean {
    const { type, name, link, size, realSize } = entry;
    const refuse = (why: string) => {
      throw new Failure(`entry ${show(name)}: ${why}`);
    };
    this.#current = name;
    if (++this.entries > this.#limits.maxEntries)
      throw new Failure(`it has more than ${this.#limits.maxEntries} entries: --max-entries allows more`);
    this.bytes += Math.max(size, realSize);

    if (name === '') refuse('it has no name');
    if (/[\x00-\x1f\x7f]/.test(name + link)) refuse('a control character in a name');
    if (name.length > maxPathBytes || link.length > maxPathBytes)
      refuse(`a name longer than ${maxPathBytes} bytes`);
    const parts = name.split('/').filter(Boolean);
    if (parts.includes('..')) refuse('its name has .. in it');
    const isRoot = parts.every((part) => part === '.');
    if (isRoot && type !== '5') refuse('the root must be a directory');
    if (type === '1' && link.split('/').includes('..'))
      refuse(`a hard link to ${show(link)}, which has .. in it`);
    if ('12'.includes(type) && link === '') refuse('a link without a target');
    if (type !== '0' && size > 0) refuse('it has data, but only files have data');
    if (type === '0' && name.endsWith('/')) refuse('a file whose name ends in /');

    const path = parts.filter((part) => part !== '.').join('/');
    const isLayer = this.#limits.layer !== undefined;
    if (!isRoot && !(type === '5' ? imageDirectory : imageFile).test(path)) this.#isImage = false;
    if (path === 'manifest.json' || path.endsWith('/layer.tar')) this.#image ??= 'docker-archive';
    if (path === 'oci-layout' || path.startsWith('blobs/sha256/')) this.#image = 'oci-archive';
    if (/^(blobs\/sha256|[0-9a-f]{64})\//.test(path) && this.image && !isLayer) refuse('a layer of an image');
    if (this.#limits.strip === 'auto' && !isRoot) this.#checkTop(type, name, parts);
    if ((isRoot && !this.strip) || (type === '5' && parts.length === this.strip)) this.rootAttributes = entry;
    return this.#limits.layer?.(type, path) ?? true;
  }

  /** The first entry tells whether the names have a top directory to be stripped; the others have to agree. */
  #checkTop(type: string, name: string, parts: string[]): void {
    const top = parts.find((part) => part !== '.') as string;
    if (this.strip === undefined) {
      const isFile = parts.at(-1) === top && type !== '5';
      if (isFile || rootDirectories.includes(top)) {
        this.strip = 0;
      } else {
        this.#top = top;
        this.strip = parts.indexOf(top) + 1;
        this.rootAttributes = undefined; // those of ./, which is stripped too
      }
    } else if (this.#top !== undefined && (top !== this.#top || parts.indexOf(top) + 1 !== this.strip)) {
      throw new Failure(
        `it begins with the directory ${show(this.#top)} but ${show(name)} is not in it: choose --strip 0 or --strip 1`,
      );
    }
  }

  #leavesOut({ type, name, device }: Entry): boolean {
    if (type !== '3' && type !== '4') return false;
    const usual = type === '3' && Object.values(usualDevices).includes(device);
    if (usual && this.#limits.skipDevices !== 'all') return false;
    if (!this.#limits.skipDevices)
      throw new Failure(
        `entry ${show(name)}: a ${type === '3' ? 'character' : 'block'} device ${device}, which gives access to the host: --skip-devices leaves such devices out`,
      );
    this.skippedDevices++;
    return true;
  }
}

/** Headers that say something of the entry whose own header follows them. */
const extraTypes: Record<string, string> = {
  x: 'pax header',
  g: 'global pax header',
  L: 'GNU long name',
  K: 'GNU long link',
};

/** The entry whose first header begins at `start`. undefined: more bytes are needed. */
function readEntry(buffer: Buffer, start: number): Entry | undefined {
  const extras = new Map<string, Buffer>();
  for (let at = start; buffer.length >= at + block; ) {
    const header = buffer.subarray(at, at + block);
    checkHeader(header);
    const type = header.toString('latin1', 156, 157);
    const what = isOld(header) ? undefined : extraTypes[type];
    const size = parseNumber(header, 124, 12, 'size');
    at += block;
    if (!what) return completeEntry(buffer, header, at, extras);
    if (size > maxMetadataBytes) throw new Failure(`a ${type} header of ${formatSize(size)}`);
    if (extras.has(what)) throw new Failure(`one entry has two ${what}s`);
    extras.set(what, buffer.subarray(at, at + size));
    at += Math.ceil(size / block) * block;
  }
  return undefined;
}

/** The entry that has this own header; `end`: where that ends in the buffer. undefined: more bytes are needed. */
function completeEntry(
  buffer: Buffer,
  header: Buffer,
  dataStart: number,
  extras: Map<string, Buffer>,
): Entry | undefined {
  const typeflag = header.toString('latin1', 156, 157);
  let type = typeflag === '\0' || typeflag === '7' ? '0' : typeflag;
  if (!(isOld(header) ? '\x000125' : '\x0001234567S').includes(typeflag))
    throw new Failure(`an entry of the unknown type ${show(typeflag)}`);
  const pax = parsePax(extras.get('pax header'));
  const global = [...parsePax(extras.get('global pax header')).keys()].find((key) => key !== 'comment');
  if (global) throw new Failure(`a global pax header sets ${show(global)} for all that follow`);
  const prefix = !isOld(header) && header[262] === 0 ? text(header, 345, 155) : '';
  const shortName = text(header, 0, 100);

  const name = agreeing('name', extras, pax.get('path'), prefix ? `${prefix}/${shortName}` : shortName);
  const link = agreeing('link', extras, pax.get('linkpath'), text(header, 157, 100));
  const headerSize = parseNumber(header, 124, 12, 'size');
  const size = paxNumber(pax, 'size') ?? headerSize;
  // only what does not fit into the header's eleven octal digits may say otherwise there
  if (size !== headerSize && size <= 0o77777777777)
    throw new Failure(`entry ${show(name)}: the pax header says ${size} bytes, the header ${headerSize}`);
  if (isOld(header) && type === '0' && name.endsWith('/')) type = '5';
  let end = dataStart;
  let realSize = paxNumber(pax, 'GNU.sparse.realsize') ?? paxNumber(pax, 'GNU.sparse.size') ?? size;
  if (type === 'S') {
    realSize = parseNumber(header, 483, 12, 'real size');
    // GNU's old sparse format: more blocks of the map follow while the last one says so
    for (let more = header[482]; more; more = buffer[end - block + 504]) {
      if (buffer.length < end + block) return undefined;
      end += block;
      if (end - dataStart > maxMetadataBytes)
        throw new Failure(`entry ${show(name)}: a sparse map without an end`);
    }
  }
  return {
    type: type === 'S' ? '0' : type,
    name: pax.get('GNU.sparse.name') ?? name,
    link,
    size,
    realSize,
    device: `${parseNumber(header, 329, 8, 'device')}:${parseNumber(header, 337, 8, 'device')}`,
    mode: parseNumber(header, 100, 8, 'mode') & 0o7777,
    uid: paxNumber(pax, 'uid') ?? parseNumber(header, 108, 8, 'uid'),
    gid: paxNumber(pax, 'gid') ?? parseNumber(header, 116, 8, 'gid'),
    mtime: pax.get('mtime') ?? `${parseNumber(header, 136, 12, 'mtime')}`,
    end,
  };
}

/** A GNU long name and a pax one: either stands for the header's, which may be cut, but not each for another. */
function agreeing(
  what: 'name' | 'link',
  extras: Map<string, Buffer>,
  pax: string | undefined,
  short: string,
): string {
  const payload = extras.get(`GNU long ${what}`);
  if (!payload) return pax ?? short;
  const [, gnu] = /^([^\0]+)\0*$/.exec(payload.toString('latin1')) ?? [];
  if (gnu === undefined) throw new Failure(`a GNU long ${what} that is empty or has a zero byte in it`);
  if (pax !== undefined && gnu !== pax)
    throw new Failure(`one entry has two ${what}s: ${show(gnu)} and ${show(pax)}`);
  return gnu;
}

/** Throws a Failure if a block is no header: POSIX, GNU, or as before them, without a magic. */
export function checkHeader(header: Buffer): void {
  // the checksum itself counts as spaces
  let sum = 8 * 0x20;
  for (let index = 0; index < header.length; index++)
    if (index < 148 || index >= 156) sum += header[index] as number;
  const expected = parseNumber(header, 148, 8, 'checksum');
  // some old programs add signed bytes
  if (sum !== expected && header.reduce((sum, byte) => sum - (byte & 0x80) * 2, sum) !== expected)
    throw new Failure('a header with a wrong checksum');
  if (!['ustar\x0000', 'ustar  \0', noMagic].includes(header.toString('latin1', 257, 265)))
    throw new Failure('a header in neither the POSIX nor the GNU format');
}

/** As tars before POSIX wrote them: files, links, and directories, whose names end in /. */
const isOld = (header: Buffer) => header[257] === 0;

/** Octal digits, or where these are too few GNU's base 256: the highest bit set, then a two's complement number. */
export function parseNumber(header: Buffer, offset: number, length: number, what: string): number {
  const field = header.subarray(offset, offset + length);
  let value: number;
  if ((field[0] as number) & 0x80) {
    value = Number(BigInt.asIntN(8 * length - 1, BigInt(`0x${field.toString('hex')}`)));
  } else {
    const [, digits] = /^ *([0-7]*)[ \0]*$/.exec(field.toString('latin1')) ?? [];
    if (digits === undefined) throw new Failure(`a header whose ${what} is not a number`);
    value = Number.parseInt(digits || '0', 8);
  }
  return inRange(value, what, `a header whose ${what}`);
}

/** A number that can be what it stands for. */
function inRange(value: number, what: string, subject: string): number {
  const isId = what === 'uid' || what === 'gid';
  // -1 as an owner means "leave it" to chown(2)
  if (!Number.isSafeInteger(value) || (value < 0 && what !== 'mtime') || (isId && value >= 0xffffffff))
    throw new Failure(`${subject} is out of range`);
  return value;
}

/** Records are `LENGTH KEY=VALUE\n`, LENGTH counting all of it. Keys that decide what is written come once. */
function parsePax(payload: Buffer = none): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < payload.length; ) {
    const [prefix, digits] = /^([1-9]\d{0,6}) /.exec(payload.toString('latin1', at, at + 8)) ?? [];
    const end = at + Number(digits);
    const equals = payload.indexOf('=', at);
    if (!prefix || end > payload.length || payload[end - 1] !== 0x0a || equals < 0 || equals >= end)
      throw new Failure('a damaged pax header');
    const key = payload.toString('latin1', at + prefix.length, equals);
    const value = payload.toString('latin1', equals + 1, end - 1);
    if (decisive.test(key)) {
      if (records.has(key)) throw new Failure(`a pax header that sets ${key} twice`);
      if (value === '' || value.includes('\0'))
        throw new Failure(`a pax header whose ${key} is empty or has a zero byte in it`);
      if (key === 'mtime' && !/^-?\d{1,12}(\.\d+)?$/.test(value))
        throw new Failure('a pax header whose mtime is not a number');
    }
    records.set(key, value);
    at = end;
  }
  return records;
}

const decisive = /^(path|linkpath|size|uid|gid|mtime|GNU\.sparse\.(name|realsize|size))$/;

function paxNumber(pax: Map<string, string>, key: string): number | undefined {
  const value = pax.get(key);
  if (value === undefined) return undefined;
  const number = /^\d{1,16}$/.test(value) ? Number(value) : Number.NaN;
  return inRange(number, key, `a pax header whose ${key}`);
}

/** A field of a header up to its first NUL, as bytes in latin1. */
export const text = (header: Buffer, offset: number, length: number) =>
  header.toString('latin1', offset, offset + length).replace(/\0.*/s, '');

export const isZero = (bytes: Buffer) => bytes.every((byte) => byte === 0);

/** A name from an archive, as bytes in latin1, safe for a terminal. */
export function show(name: string): string {
  const shown = JSON.stringify(Buffer.from(name, 'latin1').toString('utf8').slice(0, 200));
  const escaped = shown.replace(
    /[\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return /[\\ :,]/.test(escaped) ? escaped : escaped.slice(1, -1);
}
