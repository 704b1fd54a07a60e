// Tar archives made byte by byte, so that they may be wrong in any way.
/** The fields of a header; what is not given is what a plain file has. Strings are bytes, latin1. */
export interface Member {
  name?: string;
  type?: string;
  link?: string;
  data?: string | Buffer;
  /** what the header says, where that is not the length of the data; a string is put there as it is */
  size?: number | string;
  mode?: number | string;
  uid?: number | string;
  gid?: number | string;
  mtime?: number;
  device?: [major: number, minor: number];
  magic?: string;
  prefix?: string;
  /** to be put in place of the right sum */
  checksum?: string;
  /** records of a pax header before it; a list where order or repetition matters */
  pax?: Record<string, string> | [string, string][];
}

const octal = (value: number | string, length: number) =>
  typeof value === 'string' ? value : `${value.toString(8).padStart(length - 1, '0')}\0`;

/** A number in GNU's base 256, as a field of 12 bytes. */
export function base256(value: bigint): string {
  const bytes = Buffer.alloc(12);
  let rest = value;
  for (let index = 11; index >= 0; index--) {
    bytes[index] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  bytes[0] = (bytes[0] as number) | 0x80;
  return bytes.toString('latin1');
}

const padded = (data: Buffer) => Buffer.concat([data, Buffer.alloc((512 - (data.length % 512)) % 512)]);

/** One entry: its header, and its data padded to whole blocks. */
export function member(fields: Member): Buffer {
  const data = Buffer.isBuffer(fields.data) ? fields.data : Buffer.from(fields.data ?? '', 'latin1');
  const header = Buffer.alloc(512);
  const put = (text: string, offset: number, length: number) => header.write(text, offset, length, 'latin1');
  put(fields.name ?? 'file', 0, 100);
  put(octal(fields.mode ?? 0o644, 8), 100, 8);
  put(octal(fields.uid ?? 0, 8), 108, 8);
  put(octal(fields.gid ?? 0, 8), 116, 8);
  put(octal(fields.size ?? data.length, 12), 124, 12);
  put(octal(fields.mtime ?? 1_700_000_000, 12), 136, 12);
  put('        ', 148, 8);
  put(fields.type ?? '0', 156, 1);
  put(fields.link ?? '', 157, 100);
  put(fields.magic ?? 'ustar\x0000', 257, 8);
  put(octal(fields.device?.[0] ?? 0, 8), 329, 8);
  put(octal(fields.device?.[1] ?? 0, 8), 337, 8);
  put(fields.prefix ?? '', 345, 155);
  const sum = header.reduce((total, byte) => total + byte, 0);
  put(fields.checksum ?? `${sum.toString(8).padStart(6, '0')}\0 `, 148, 8);
  return Buffer.concat([fields.pax ? paxHeader(fields.pax) : Buffer.alloc(0), header, padded(data)]);
}

/** The records of a pax header: `LENGTH KEY=VALUE\n`, LENGTH counting itself. */
export function paxRecords(records: Record<string, string> | [string, string][]): string {
  const list = Array.isArray(records) ? records : Object.entries(records);
  return list
    .map(([key, value]) => {
      const rest = ` ${key}=${value}\n`;
      let length = rest.length;
      while (`${length}${rest}`.length !== length) length = `${length}${rest}`.length;
      return `${length}${rest}`;
    })
    .join('');
}

/** A pax header, for the next entry (`x`) or for all (`g`). */
export function paxHeader(records: Record<string, string> | [string, string][], type = 'x'): Buffer {
  return member({ name: 'PaxHeaders/0', type, data: paxRecords(records) });
}

/** A GNU long name (`L`) or long link (`K`) for the next entry. */
export function gnuLong(text: string, type = 'L'): Buffer {
  return member({ name: '././@LongLink', type, data: `${text}\0`, magic: 'ustar  \0' });
}

/** The two blocks of zeros at the end of an archive. */
export const endMarker = Buffer.alloc(1024);

/** A whole archive. */
export function archive(...parts: (Member | Buffer)[]): Buffer {
  return Buffer.concat([...parts.map((part) => (Buffer.isBuffer(part) ? part : member(part))), endMarker]);
}
