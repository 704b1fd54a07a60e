// Files that are no tarballs: what they are, and how to make a tarball of them.

import { scriptPath } from '../helpers/called.ts';
import { Failure, reason } from '../helpers/cli.ts';
import { quote } from '../helpers/shell.ts';
import { type Compression, findCompression, isTar } from '../images/compression.ts';
import { shown } from '../images/http.ts';
import { checkHeader, isZero } from '../images/inspector.ts';

// bsdtar(1) makes a tarball of another archive without unpacking it, so nothing of it is written to the host
const convert = (file: string) => `bsdtar -cf - @${file}`;

/** Other formats: how they begin, and the command that writes a tarball of FILE to its standard output. */
const others: { name: string; magic: RegExp; command: (file: string) => string }[] = [
  { name: 'a zip archive', magic: /^PK(\x03\x04|\x05\x06)/, command: convert },
  { name: 'a cpio archive', magic: /^(07070[127]|\xc7\x71|\x71\xc7)/, command: convert },
  { name: 'an ISO 9660 image', magic: /^.{32769}CD001/s, command: convert },
  {
    name: 'a squashfs image',
    magic: /^(hsqs|sqsh)/,
    command: (file) => `unsquashfs -d unpacked ${file} && tar -C unpacked -c .`,
  },
  { name: 'lz4 data', magic: /^(\x04"M|\x02!L)\x18/, command: (file) => `lz4 -dc ${file}` },
  { name: 'lzip data', magic: /^LZIP/, command: (file) => `lzip -dc ${file}` },
  {
    name: 'lzma data',
    magic: /^\]\0\0.{2}(\xff{8}|.{5}\0{3})/s,
    command: (file) => `xz --format=lzma -dc ${file}`,
  },
];

/** The operands, for hints: SOURCE, also as a URL if it is one, and DEST. */
export interface Operands {
  source: string;
  url: URL | undefined;
  dest: string;
}

/** A command line that makes a tarball of SOURCE, and unpacks it. `outer`: a compression to undo first. */
function unpackBy(
  command: (file: string) => string,
  { source, url, dest }: Operands,
  outer?: Compression,
): string {
  const steps = [];
  let name = url ? 'downloaded' : source === '-' ? 'FILE' : quote(source.replace(/^-/, './-'));
  if (url) steps.push(`curl -fLo ${name} ${quote(shown(url))}`);
  if (outer) {
    steps.push(`${outer.command.join(' ')} <${name} >decompressed`);
    name = 'decompressed';
  }
  return [...steps, `${command(name)} | ${scriptPath()} - ${quote(dest)}`].join(' && ');
}

/**
 * Throws a Failure if what begins so is certainly no tar archive: it names the format, and a command that makes a tarball
 * of it. `outer`: the compression that was undone.
 */
export function refuseOthers(start: Buffer, operands: Operands, outer?: Compression): void {
  if (isTar(start)) return;
  const text = start.toString('latin1');
  const other = others.find(({ magic }) => magic.test(text));
  if (other)
    throw new Failure(`it is ${other.name}, not a tarball: try: ${unpackBy(other.command, operands, outer)}`);
  const inner = findCompression(start);
  if (outer && inner) {
    const once = (file: string) => `${outer.command.join(' ')} <${file}`;
    throw new Failure(
      `it is compressed twice, ${inner.name} in ${outer.name}: try: ${unpackBy(once, operands)}`,
    );
  }
  const begin = `it begins with ${JSON.stringify(text.slice(0, 16))}`;
  if (/^(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)/i.test(text)) {
    const look = operands.url
      ? `curl -L ${quote(shown(operands.url))} | head`
      : `head ${quote(operands.source)}`;
    throw new Failure(
      `it is not a tar archive but an HTML page, such as a login; ${begin}: look at it: ${look}`,
    );
  }
  // too short, or the end marker: the inspector tells
  if (start.length < 512 || isZero(start.subarray(0, 512))) return;
  try {
    checkHeader(start.subarray(0, 512));
  } catch (error) {
    throw new Failure(`it is not a tar archive, plain or compressed: ${reason(error)}; ${begin}`);
  }
}

/** What an image of layers is, and the command that puts them together. `transport`: the word before its path. */
export function describeImage(
  transport: 'docker-archive' | 'oci-archive' | 'oci',
  { source, url, dest }: Operands,
): string {
  const what = transport === 'docker-archive' ? 'as docker save writes it' : 'in the OCI layout';
  const fetch = `${scriptPath()} ${quote(`${transport}:${url ? 'downloaded' : source}`)} ${quote(dest)}`;
  const download = url ? `curl -fLo downloaded ${quote(shown(url))} && ` : '';
  return `it is an image ${what}, not a tarball of a root file system: type ${download}${fetch}`;
}
