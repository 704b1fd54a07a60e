// Archives that want to write elsewhere, to confuse, to fill the disk, or that are broken.
import { gzipSync } from 'node:zlib';
import { archive, base256, endMarker, gnuLong, type Member, member, paxHeader } from './archives.ts';

/** One archive, what it tries, and what is to come of it. */
export interface Hostile {
  what: string;
  /** the large ones are made when they are wanted */
  bytes: Buffer | (() => Buffer);
  options?: string[];
  /** the message that refuses it; none: it is unpacked, harmlessly, and DEST then has these paths */
  refusal?: RegExp;
  holds?: string[];
}

const link = (name: string, target: string): Member => ({ name, type: '2', link: target });
const hardLink = (name: string, target: string): Member => ({ name, type: '1', link: target });
const folder = (name: string): Member => ({ name, type: '5', mode: 0o755 });
const written = { data: 'pwned\n' };

/** `outside`: the absolute path of a directory that holds a file `canary`. */
export function hostileArchives(outside: string): Hostile[] {
  const canary = `${outside}/canary`;
  const good = archive({ name: 'etc/good', data: 'x' });
  const many = Array.from({ length: 1001 }, (_, index) => member({ name: `etc/${index}` }));
  // each of them is a legal name in the new root, but too long with DEST before it
  const deep = Array.from({ length: 16 }, (_, index) =>
    member({ type: '5', mode: 0o755, pax: { path: `etc/${`${'d'.repeat(250)}/`.repeat(index)}` } }),
  );
  return [
    // leaving by name
    {
      what: 'a name that starts with ..',
      bytes: archive({ name: '../outside/canary', ...written }),
      refusal: /has \.\. in it/,
    },
    {
      what: 'a name with .. in it',
      bytes: archive({ name: 'etc/../../outside/canary', ...written }),
      refusal: /has \.\. in it/,
    },
    {
      what: 'a prefix that leads upwards',
      bytes: archive({ prefix: '../outside', name: 'canary', ...written }),
      refusal: /has \.\. in it/,
    },
    {
      what: 'an absolute name, which lands inside',
      bytes: archive({ name: canary, ...written }),
      holds: [canary],
    },
    {
      what: 'a pax path upwards',
      bytes: archive({ pax: { path: '../outside/canary' }, ...written }),
      refusal: /has \.\. in it/,
    },
    {
      what: 'a GNU long name upwards',
      bytes: archive(gnuLong('../outside/canary'), written),
      refusal: /has \.\. in it/,
    },
    {
      what: 'a GNU sparse name upwards',
      bytes: archive({
        pax: {
          'GNU.sparse.major': '1',
          'GNU.sparse.minor': '0',
          'GNU.sparse.name': '../outside/canary',
          'GNU.sparse.realsize': '6',
        },
        data: '0\n',
      }),
      refusal: /has \.\. in it/,
    },
    {
      what: 'a global pax path',
      bytes: archive(paxHeader({ path: canary }, 'g'), written),
      refusal: /global pax header sets path/,
    },
    // leaving by link
    {
      what: 'a symlink outside, and a file through it',
      bytes: archive(link('l', outside), { name: 'l/pwned', ...written }),
      refusal: /l\/pwned/,
    },
    {
      what: 'a relative symlink upwards, and a file through it',
      bytes: archive(link('l', '../outside'), { name: 'l/pwned', ...written }),
      refusal: /l\/pwned/,
    },
    {
      what: 'two symlinks that together lead upwards, but end at the new root',
      bytes: archive(folder('etc/'), link('etc/up', '..'), link('etc/up2', 'up/..'), {
        name: 'etc/up2/outside/pwned',
        ...written,
      }),
      holds: ['outside/pwned'],
    },
    {
      what: 'a symlink to the canary, and a file over it',
      bytes: archive(link('f', canary), { name: 'f', ...written }),
      holds: ['f'],
    },
    {
      what: 'a symlink by a pax linkpath, and a file through it',
      bytes: archive({ ...link('l', 'x'), pax: { linkpath: outside } }, { name: 'l/pwned', ...written }),
      refusal: /l\/pwned/,
    },
    {
      what: 'a symlink by a GNU long link, and a file through it',
      bytes: archive(gnuLong(outside, 'K'), link('l', 'x'), { name: 'l/pwned', ...written }),
      refusal: /l\/pwned/,
    },
    {
      what: 'a directory that becomes a symlink, and a file in it',
      bytes: archive(folder('etc/'), link('etc', outside), { name: 'etc/pwned', ...written }),
      refusal: /etc/,
    },
    {
      what: 'a top directory that is a symlink',
      bytes: archive(link('rootfs', outside), { name: 'rootfs/pwned', ...written }),
      refusal: /rootfs\/pwned/,
    },
    {
      what: 'a root that is a symlink',
      bytes: archive(link('./', outside), { name: './pwned', ...written }),
      refusal: /root must be a directory/,
    },
    {
      what: 'symlinks in a circle',
      bytes: archive(link('a', 'b'), link('b', 'a'), { name: 'a/pwned', ...written }),
      refusal: /a\/pwned/,
    },
    {
      what: 'a hard link to an absolute path outside',
      bytes: archive(hardLink('h', canary), { name: 'h', ...written }),
      refusal: /h: Cannot hard link|l\/canary: Cannot/,
    },
    {
      what: 'a hard link upwards',
      bytes: archive(hardLink('h', '../outside/canary')),
      refusal: /has \.\. in it/,
    },
    {
      what: 'a hard link to a symlink outside, and a file over it',
      bytes: archive(link('s', canary), hardLink('h', 's'), { name: 'h', ...written }),
      holds: ['h'],
    },
    {
      what: 'a hard link through a symlink',
      bytes: archive(link('l', outside), hardLink('h', 'l/canary')),
      refusal: /h: Cannot hard link|l\/canary: Cannot/,
    },
    {
      what: 'a hard link by a pax linkpath upwards',
      bytes: archive({ ...hardLink('h', 'x'), pax: { linkpath: '../outside/canary' } }),
      refusal: /has \.\. in it/,
    },
    { what: 'a link to nothing', bytes: archive(link('l', '')), refusal: /link without a target/ },
    {
      what: 'a FIFO, and a file over it',
      bytes: archive({ name: 'f', type: '6' }, { name: 'f', ...written }),
      holds: ['f'],
    },
    // ways to the host
    {
      what: 'a block device',
      bytes: archive({ name: 'dev/sda', type: '4', device: [8, 0] }),
      refusal: /block device 8:0.*--skip-devices/,
    },
    {
      what: 'the memory device',
      bytes: archive({ name: 'dev/null', type: '3', device: [1, 1] }),
      refusal: /character device 1:1/,
    },
    {
      what: 'the memory device, left out',
      bytes: archive({ name: 'dev/mem', type: '3', device: [1, 1] }, { name: 'etc/x' }),
      options: ['--skip-devices'],
      holds: ['etc/x'],
    },
    {
      what: 'a block device under a long name, left out with it',
      bytes: archive(gnuLong('dev/sda'), { name: 'x', type: '4', device: [8, 0] }, { name: 'etc/x' }),
      options: ['--skip-devices'],
      holds: ['etc/x'],
    },
    // two meanings
    {
      what: 'a pax path given twice',
      bytes: archive({
        pax: [
          ['path', 'etc/a'],
          ['path', 'etc/b'],
        ],
      }),
      refusal: /sets path twice/,
    },
    {
      what: 'a pax path and another GNU long name',
      bytes: archive(gnuLong('etc/a'), { pax: { path: 'etc/b' } }),
      refusal: /two names/,
    },
    {
      what: 'two GNU long names',
      bytes: archive(gnuLong('etc/a'), gnuLong('etc/b'), {}),
      refusal: /two GNU long names/,
    },
    {
      what: 'two pax headers for one entry',
      bytes: archive(paxHeader({ path: 'etc/a' }), { pax: { path: 'etc/a' } }),
      refusal: /two pax headers/,
    },
    {
      what: 'a GNU long name with a NUL in it',
      bytes: archive(gnuLong('etc/a\0/../../b'), {}),
      refusal: /GNU long name that is empty or has a zero byte in it/,
    },
    {
      what: 'a GNU long name of nothing',
      bytes: archive(gnuLong(''), {}),
      refusal: /GNU long name that is empty or has a zero byte in it/,
    },
    {
      what: 'a GNU long name of 2 MiB',
      bytes: archive(gnuLong('a'.repeat(2 << 20)), {}),
      refusal: /header of 2.0 MiB/,
    },
    {
      what: 'a GNU long name for no entry',
      bytes: archive({ name: 'etc/x' }, gnuLong('etc/a')),
      refusal: /wrong checksum|neither the POSIX/,
    },
    {
      what: 'a pax size that disagrees with the header',
      bytes: archive({ name: 'etc/x', size: 512, data: 'x'.repeat(512), pax: { size: '1024' } }),
      refusal: /pax header says 1024 bytes, the header 512/,
    },
    {
      what: 'a pax path with a NUL',
      bytes: archive({ pax: { path: 'etc/a\0b' } }),
      refusal: /path is empty or has a zero byte in it/,
    },
    {
      what: 'a pax record longer than its header',
      bytes: archive(member({ type: 'x', data: '99 path=etc/x\n' }), {}),
      refusal: /damaged pax header/,
    },
    {
      what: 'a pax record without an end',
      bytes: archive(member({ type: 'x', data: '13 path=etc/xy' }), {}),
      refusal: /damaged pax header/,
    },
    {
      what: 'a pax owner that is no number',
      bytes: archive({ pax: { uid: '-1' } }),
      refusal: /uid is out of range/,
    },
    {
      what: 'an owner -1, which chown(2) ignores',
      bytes: archive({ name: 'etc/x', uid: '\x80\0\0\0\xff\xff\xff\xff' }),
      refusal: /uid is out of range/,
    },
    {
      what: 'a hard link with data',
      bytes: archive({ name: 'etc/x', ...written }, { ...hardLink('etc/h', 'etc/x'), data: 'x'.repeat(512) }),
      refusal: /only files have data/,
    },
    {
      what: 'a symlink with data',
      bytes: archive({ ...link('etc/l', 'x'), data: good }),
      refusal: /only files have data/,
    },
    {
      what: 'a directory with data',
      bytes: archive({ ...folder('etc/'), data: good }),
      refusal: /only files have data/,
    },
    {
      what: 'a file whose name is a directory',
      bytes: archive({ name: 'etc/', ...written }),
      refusal: /name ends in \//,
    },
    {
      what: 'an entry of an unknown type',
      bytes: archive({ name: 'etc/x', type: 'Z' }),
      refusal: /unknown type Z/,
    },
    {
      what: 'a part of a multi-volume archive',
      bytes: archive({ name: 'etc/x', type: 'M' }),
      refusal: /unknown type M/,
    },
    { what: 'an entry without a name', bytes: archive({ name: '' }), refusal: /has no name/ },
    { what: 'a newline in a name', bytes: archive({ name: 'etc/a\nb' }), refusal: /control character/ },
    {
      what: 'an escape sequence in a link',
      bytes: archive(link('etc/l', '\x1b]0;pwned\x07')),
      refusal: /control character/,
    },
    {
      what: 'a name of 5000 bytes',
      bytes: archive({ pax: { path: `etc/${'d/'.repeat(2500)}x` } }),
      refusal: /longer than 4095 bytes/,
    },
    {
      what: 'names of two tops',
      bytes: archive(folder('rootfs/'), { name: 'rootfs/x' }, { name: 'elsewhere/x' }),
      refusal: /begins with the directory rootfs but elsewhere\/x.*--strip/,
    },
    // floods
    {
      what: 'a file larger than allowed',
      bytes: archive({ name: 'etc/x', size: 1 << 30 }),
      options: ['--max-size', '10M'],
      refusal: /more than 10 MiB: --max-size/,
    },
    {
      what: 'a file of eight exabytes',
      bytes: archive({ name: 'etc/x', size: base256(1n << 63n) }),
      refusal: /size is out of range/,
    },
    {
      what: 'a file of a negative size',
      bytes: archive({ name: 'etc/x', size: '\xff'.repeat(12) }),
      refusal: /size is out of range/,
    },
    {
      what: 'a size that is no number',
      bytes: archive({ name: 'etc/x', size: '12345678xyz' }),
      refusal: /size is not a number/,
    },
    {
      what: 'a sparse file of a petabyte',
      bytes: archive({
        name: 'etc/x',
        pax: {
          'GNU.sparse.major': '1',
          'GNU.sparse.minor': '0',
          'GNU.sparse.name': 'etc/x',
          'GNU.sparse.realsize': `${2 ** 50}`,
        },
        data: '0\n',
      }),
      refusal: /unpacks to more than/,
    },
    {
      what: 'a gzip bomb',
      bytes: () =>
        gzipSync(Buffer.concat([member({ name: 'etc/x', size: 64 << 20 }), Buffer.alloc(64 << 20)])),
      options: ['--max-size', '10M'],
      refusal: /more than 10 MiB/,
    },
    {
      what: 'an endless padding',
      bytes: () => gzipSync(Buffer.concat([good, Buffer.alloc(32 << 20)])),
      refusal: /of zeros follow the end marker/,
    },
    {
      what: 'a flood of entries',
      bytes: archive(...many),
      options: ['--max-entries', '1000'],
      refusal: /more than 1000 entries/,
    },
    {
      what: 'directories deeper than a path of the host can be, and a cut',
      bytes: archive(...deep).subarray(0, -512),
      refusal: /no end marker/,
    },
    // broken ones
    { what: 'nothing at all', bytes: Buffer.alloc(0), refusal: /it is empty/ },
    { what: 'an end marker alone', bytes: endMarker, refusal: /without entries/ },
    {
      what: 'a web page',
      bytes: Buffer.from(`<!DOCTYPE html>${' '.repeat(600)}`),
      refusal: /not a tar archive.*begins with "<!DOCTYPE html>/,
    },
    { what: 'a few bytes', bytes: Buffer.from('hello'), refusal: /too short/ },
    {
      what: 'a header with a wrong checksum',
      bytes: archive({ name: 'etc/x', checksum: '000001\0 ' }),
      refusal: /wrong checksum/,
    },
    {
      what: 'a header of neither POSIX nor GNU',
      bytes: archive({ name: 'etc/x', magic: 'newtar\0\0' }),
      refusal: /neither the POSIX nor the GNU format/,
    },
    {
      what: 'a cut in a header',
      bytes: archive({ name: 'etc/x' }, { name: 'etc/y' }).subarray(0, 700),
      refusal: /truncated: no end marker after etc\/x/,
    },
    {
      what: 'a cut in data',
      bytes: archive({ name: 'etc/x', data: 'x'.repeat(5000) }).subarray(0, 2048),
      refusal: /truncated in the data of etc\/x/,
    },
    {
      what: 'a cut between entries',
      bytes: archive({ name: 'etc/x' }, { name: 'etc/y' }).subarray(0, 512),
      refusal: /truncated: no end marker after etc\/x/,
    },
    { what: 'half an end marker', bytes: good.subarray(0, -512), refusal: /truncated: no end marker/ },
    {
      what: 'a lone block of zeros',
      bytes: Buffer.concat([member({ name: 'etc/x' }), Buffer.alloc(512), good]),
      refusal: /single block of zeros/,
    },
    {
      what: 'a second archive after the end',
      bytes: Buffer.concat([good, archive({ name: 'etc/late', ...written })]),
      refusal: /data follow the end marker/,
    },
    {
      what: 'gzip data that are cut',
      bytes: gzipSync(good).subarray(0, -12),
      refusal: /truncated: the gzip data/,
    },
    {
      what: 'gzip data with a wrong CRC',
      bytes: Buffer.concat([gzipSync(good).subarray(0, -8), Buffer.from('\0\0\0\0\0\x06\0\0')]),
      refusal: /gzip data is damaged: incorrect data check/,
    },
    {
      what: 'gzip data with something behind',
      bytes: Buffer.concat([gzipSync(good), Buffer.from('behind')]),
      refusal: /gzip data is damaged/,
    },
    {
      what: 'gzip data with zeros and something behind',
      bytes: Buffer.concat([gzipSync(good), Buffer.from('\0\0behind')]),
      refusal: /other data follow the end of the gzip data/,
    },
    {
      what: 'a second archive in a second gzip member',
      bytes: Buffer.concat([gzipSync(good), gzipSync(good)]),
      refusal: /data follow the end marker/,
    },
  ];
}
