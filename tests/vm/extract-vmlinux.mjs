// extract-vmlinux.mjs VMLINUZ VMLINUX: the kernel proper out of a bzImage. qemu enters such an ELF file at once, which
// spares the VM the BIOS and the decompression, slow under emulation. See the kernel's Documentation/arch/x86/boot.rst.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';

const [, , from, to] = process.argv;
const image = readFileSync(from);
const setupSectors = image[0x1f1] || 4;
const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248);
const payload = image.subarray(start, start + image.readUInt32LE(0x24c));

const lz4Legacy = 0x184c2102;
const xz = 0xfd377a58;

if (payload.readUInt32LE(0) === lz4Legacy) writeFileSync(to, unpackLz4(payload));
else if (payload.readUInt32BE(0) === xz)
  writeFileSync(to, execFileSync('xz', ['-dc', '--single-stream'], { input: payload, maxBuffer: 2 ** 28 }));
else throw new Error(`${from}: a compression not known here: ${payload.toString('hex', 0, 4)}`);

/** LZ4's legacy frame: blocks of up to 8 MiB, each behind its length; the payload's last four bytes are the size. */
function unpackLz4(source) {
  const blocks = [];
  let at = 4;
  while (at < source.length - 4) {
    const end = at + 4 + source.readUInt32LE(at);
    blocks.push(unpackLz4Block(source.subarray(at + 4, end)));
    at = end;
  }
  return Buffer.concat(blocks);
}

function unpackLz4Block(block) {
  const out = Buffer.allocUnsafe(8 * 2 ** 20);
  let from = 0;
  let to = 0;
  const longLength = (length) => {
    if (length < 15) return length;
    let sum = length;
    let byte;
    do {
      byte = block[from++];
      sum += byte;
    } while (byte === 255);
    return sum;
  };
  while (from < block.length) {
    const token = block[from++];
    const literals = longLength(token >> 4);
    block.copy(out, to, from, from + literals);
    from += literals;
    to += literals;
    if (from >= block.length) break;
    const distance = block.readUInt16LE(from);
    from += 2;
    // byte by byte, since a match may overlap what it writes
    for (let left = longLength(token & 15) + 4; left > 0; left--, to++) out[to] = out[to - distance];
  }
  return out.subarray(0, to);
}
