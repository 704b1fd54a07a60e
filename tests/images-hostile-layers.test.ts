// Images that want to write or remove elsewhere, to confuse, to fill the disk, or that are broken: nothing outside of DEST
// changes, and DEST is made completely or not at all.
import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { archive, base256, type Member, member } from './helpers/archives.ts';
import { loneBundle, run, sandbox } from './helpers/fetch.ts';
import { archiveOf, type Changes, digestOf, layer, layoutOf, writeFiles } from './helpers/images.ts';
import { needs } from './helpers/needs.ts';
import { test } from './helpers/slow.ts';

const program = loneBundle();
const root = { skip: needs('root', 'namespaces') };

const folder = (name: string): Member => ({ name, type: '5', mode: 0o755 });
const link = (name: string, target: string): Member => ({ name, type: '2', link: target });
const hard = (name: string, target: string): Member => ({ name, type: '1', link: target });
const pwned = (name: string): Member => ({ name, data: 'pwned\n' });
const whiteout = (name: string): Member => ({ name });
const good = [folder('bin/'), { name: 'bin/sh' }, folder('etc/'), { name: 'etc/a' }];

/** An image, what it tries, and what is to come of it. */
interface Hostile {
  what: string;
  files: Record<string, Buffer> | Buffer;
  transport?: string;
  options?: string[];
  /** the message that refuses it; none: DEST then has these names at its top */
  refusal?: RegExp;
  holds?: string[];
}

/** An image of these layers of entries. */
const image = (
  what: string,
  layers: Member[][],
  result: Partial<Hostile>,
  changes: Changes = {},
): Hostile => ({
  what,
  files: layoutOf(
    layers.map((entries) => layer(entries)),
    'latest',
    changes,
  ),
  ...result,
});
/** An image of one good layer with something wrong around it. */
const around = (what: string, changes: Changes, refusal: RegExp) => image(what, [good], { refusal }, changes);
const text = (value: unknown) => Buffer.from(JSON.stringify(value));
const sum = 'a'.repeat(64);

function hostileImages(outside: string): Hostile[] {
  const canary = `${outside}/canary`;
  const up = `..${outside}`;
  const usual = ['bin', 'etc'];
  const cut = layer(good, gzipSync);
  return [
    // layers over layers: what tar(1) alone would follow out of DEST
    image(
      'a link outside, and a file through it in the next layer',
      [[...good, link('l', outside)], [pwned('l/pwned')]],
      { refusal: /l\/pwned/ },
    ),
    image(
      'the same, with a directory there',
      [[...good, link('l', outside), folder(`${outside.slice(1)}/`)], [pwned('l/pwned')]],
      { holds: [...usual, 'l', outside.split('/')[1] as string] },
    ),
    image(
      'a relative link upwards, and a file through it',
      [[...good, link('etc/l', `../../../${up}`)], [pwned('etc/l/pwned')]],
      { refusal: /l\/pwned/ },
    ),
    image('a link to the canary, and a file over it', [[...good, link('l', canary)], [pwned('l')]], {
      holds: [...usual, 'l'],
    }),
    image(
      'a hard link to the canary through a link',
      [[...good, link('l', outside)], [hard('h', 'l/canary')]],
      { refusal: /h: Cannot hard link|l\/canary: Cannot/ },
    ),
    image(
      'a hard link to a link outside, and a file over it',
      [[...good, link('l', canary), hard('h', 'l')], [pwned('h')]],
      { holds: [...usual, 'h', 'l'] },
    ),
    image(
      'a directory over a link outside',
      [
        [...good, link('l', outside)],
        [folder('l/'), pwned('l/x')],
      ],
      { holds: [...usual, 'l'] },
    ),
    image('a whiteout below a link outside', [[...good, link('l', outside)], [whiteout('l/.wh.canary')]], {
      holds: [...usual, 'l'],
    }),
    image('a whiteout below a relative link', [[...good, link('l', up)], [whiteout('l/.wh.canary')]], {
      holds: [...usual, 'l'],
    }),
    image(
      'a whiteout below links to links',
      [[...good, link('a', 'b'), link('b', `${outside}/..`)], [whiteout('a/outside/.wh.canary')]],
      { holds: ['a', 'b', ...usual] },
    ),
    image('a whiteout of a link outside', [[...good, link('l', outside)], [whiteout('.wh.l')]], {
      holds: usual,
    }),
    image(
      'a whiteout through /proc',
      [[...good, link('l', '/proc/1/root')], [whiteout(`l${outside}/.wh.canary`)]],
      { holds: [...usual, 'l'] },
    ),
    image('an opaque link outside', [[...good, link('l', outside)], [whiteout('l/.wh..wh..opq')]], {
      holds: [...usual, 'l'],
    }),
    image(
      'an opaque directory whose parent is a link outside',
      [[...good, link('l', `${outside}/..`)], [whiteout('l/outside/.wh..wh..opq')]],
      { holds: [...usual, 'l'] },
    ),
    image(
      'an opaque root, over a link outside',
      [
        [...good, link('l', outside)],
        [whiteout('.wh..wh..opq'), ...good],
      ],
      { holds: usual },
    ),
    image(
      'a file over a directory behind a link outside',
      [[...good, link('l', `${outside}/..`)], [pwned('l/outside')]],
      { refusal: /l\/outside/ },
    ),
    image(
      'a time behind a link outside',
      [
        [...good, link('l', outside)],
        [whiteout('l/.wh.x'), pwned('x')],
      ],
      { holds: [...usual, 'l', 'x'] },
    ),
    image(
      'links in a circle, with whiteouts behind them',
      [
        [...good, link('a', 'b'), link('b', 'a')],
        [whiteout('a/.wh.x'), whiteout('b/.wh..wh..opq')],
      ],
      { refusal: /Too many levels of symbolic links/ },
    ),
    // whiteouts that hide nothing, or all
    image('a whiteout of .', [good, [whiteout('etc/.wh..')]], {
      refusal: /layer 2 of 2: entry etc\/\.wh\.\.: a whiteout that hides nothing/,
    }),
    image('a whiteout of ..', [good, [whiteout('.wh...')]], {
      refusal: /entry \.wh\.\.\.: a whiteout that hides nothing/,
    }),
    image('a whiteout of no name', [good, [whiteout('etc/.wh.')]], {
      refusal: /a whiteout that hides nothing/,
    }),
    image('a whiteout that is a directory with files', [good, [folder('.wh.etc/'), pwned('.wh.etc/x')]], {
      refusal: /a whiteout that hides nothing/,
    }),
    image('a whiteout that leads upwards', [good, [whiteout('../.wh.outside')]], {
      refusal: /has \.\. in it/,
    }),
    image('a whiteout that leads upwards in the middle', [good, [whiteout('etc/../../outside/.wh.canary')]], {
      refusal: /has \.\. in it/,
    }),
    image(
      'an absolute whiteout, which is one in DEST',
      [good, [whiteout(`${outside}/.wh.canary`), whiteout('/etc/.wh.a')]],
      { holds: usual },
    ),
    image(
      'files of AUFS',
      [[...good, folder('.wh..wh.plnk/'), pwned('.wh..wh.plnk/1.2'), pwned('.wh..wh.aufs')]],
      { holds: usual },
    ),
    // entries
    image('an entry upwards', [good, [pwned('../outside/canary')]], {
      refusal: /layer 2 of 2: entry \S+: its name has \.\. in it/,
    }),
    image('an absolute entry, which lands inside', [good, [pwned('/etc/motd')]], { holds: usual }),
    image('a hard link upwards', [good, [hard('h', '../outside/canary')]], { refusal: /has \.\. in it/ }),
    image('a block device', [good, [{ name: 'sda', type: '4', device: [8, 0] }]], {
      refusal: /block device 8:0.*--skip-devices/,
    }),
    image('a whiteout as overlayfs has it', [good, [{ name: 'etc/a', type: '3', device: [0, 0] }]], {
      refusal: /character device 0:0/,
    }),
    image('a block device, left out', [good, [{ name: 'sda', type: '4', device: [8, 0] }]], {
      options: ['--skip-devices'],
      holds: usual,
    }),
    image(
      'a directory and then a link of its name',
      [good, [folder('x/'), pwned('x/y'), link('x', outside), pwned('x/z')]],
      { refusal: /entry x: it replaces a directory of the same layer/ },
    ),
    image('a root that is a link', [good, [link('./', outside)]], { refusal: /root must be a directory/ }),
    image('/.image.json through a link to the root', [[...good, link('r', '/')], [pwned('r/.image.json')]], {
      refusal: /cannot write its configuration to \/\.image\.json: EEXIST/,
    }),
    image('a name of the folder of tar', [[...good, link('.tar-0000000000000000', outside)]], {
      holds: ['.tar-0000000000000000', ...usual],
    }),
    // too much
    image(
      'more than --max-size in all layers together',
      [[{ name: 'bin', data: Buffer.alloc(6000) }], [{ name: 'x', data: Buffer.alloc(6000) }]],
      {
        options: ['--max-size=10000'],
        refusal: /layer 2 of 2: it unpacks to more than 9\.8 KiB|unpacks to more than/,
      },
    ),
    image('more than --max-entries in all layers together', [good, good], {
      options: ['--max-entries=7'],
      refusal: /more than \d entries/,
    }),
    {
      what: 'a layer that is a bomb',
      files: layoutOf([layer(good), layer(archive({ name: 'x', data: Buffer.alloc(1 << 24) }), gzipSync)]),
      options: ['--max-size=1M'],
      refusal: /unpacks to more than/,
    },
    {
      what: 'a sparse bomb',
      files: layoutOf([
        layer([
          ...good,
          {
            name: 'x',
            data: '0\n',
            pax: {
              'GNU.sparse.major': '1',
              'GNU.sparse.minor': '0',
              'GNU.sparse.name': 'x',
              'GNU.sparse.realsize': '99999999999',
            },
          },
        ]),
      ]),
      options: ['--max-size=1M'],
      refusal: /unpacks to more than/,
    },
    {
      what: 'an outer archive that is a bomb',
      transport: 'oci-archive',
      files: gzipSync(archiveOf({ ...layoutOf([layer(good)]), 'blobs/sha256/x': Buffer.alloc(1 << 24) })),
      options: ['--max-size=1M'],
      refusal: /more than 1 MiB/,
    },
    // what is not what its digest says
    image(
      'a layer that was changed',
      [good],
      { refusal: /has the digest|was damaged/ },
      { blobs: ({ layers }) => ({ [layers[0] as string]: archive(pwned('bin'), ...good.slice(1)) }) },
    ),
    image(
      'a layer that is longer',
      [good],
      { refusal: /has more than its/ },
      {
        blobs: ({ layers }) => ({
          [layers[0] as string]: Buffer.concat([layer(good).tar, Buffer.alloc(512)]),
        }),
      },
    ),
    image(
      'a layer that is cut',
      [good],
      { refusal: /has \d+ of its \d+ bytes|is truncated/ },
      { blobs: ({ layers }) => ({ [layers[0] as string]: layer(good).tar.subarray(0, 1024) }) },
    ),
    {
      what: 'a compressed layer that is cut, with the digest of the cut one',
      files: layoutOf([layer(good), { ...cut, blob: cut.blob.subarray(0, -9) }]),
      refusal: /layer 2 of 2: it is truncated/,
    },
    image(
      'another diff_id',
      [good],
      { refusal: /layer 1 of 1: its digest is sha256:\w+, but the configuration has sha256:a+/ },
      { config: { rootfs: { type: 'layers', diff_ids: [`sha256:${sum}`] } } },
    ),
    image(
      'the diff_ids in another order',
      [good, [pwned('x')]],
      { refusal: /but the configuration has/ },
      {
        config: {
          rootfs: { type: 'layers', diff_ids: [layer([pwned('x')]).tar, layer(good).tar].map(digestOf) },
        },
      },
    ),
    image(
      'a configuration that was changed',
      [good],
      { refusal: /has the digest|bytes/ },
      { blobs: ({ config }) => ({ [config]: text({ os: 'linux' }) }) },
    ),
    image(
      'a manifest that was changed',
      [good],
      { refusal: /has the digest|bytes/ },
      { blobs: ({ manifest }) => ({ [manifest]: text({ schemaVersion: 2 }) }) },
    ),
    // values of the wrong type
    around(
      'fewer diff_ids than layers',
      { config: { rootfs: { type: 'layers', diff_ids: [] } } },
      /1 layers, but 0/,
    ),
    around('diff_ids that are paths', { config: { rootfs: { diff_ids: [canary] } } }, /not a sha256 digest/),
    around('a configuration that is a list', { config: { rootfs: [] } }, /no rootfs\.diff_ids/),
    around(
      'a layer whose digest is a path',
      {
        manifest: {
          layers: [
            {
              mediaType: 'application/vnd.oci.image.layer.v1.tar',
              digest: '../../../outside/canary',
              size: 6,
            },
          ],
        },
      },
      /not a sha256 digest/,
    ),
    around(
      'a layer whose digest has a path in it',
      {
        manifest: {
          layers: [
            { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: `sha256:../../${sum}`, size: 6 },
          ],
        },
      },
      /not a sha256 digest/,
    ),
    around(
      'a layer of a negative size',
      {
        manifest: {
          layers: [
            { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: `sha256:${sum}`, size: -1 },
          ],
        },
      },
      /layer 1 has no size/,
    ),
    around(
      'a layer that is not there',
      {
        manifest: {
          layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: `sha256:${sum}`, size: 1 }],
        },
      },
      /ENOENT/,
    ),
    around(
      'a layer that is somewhere else',
      {
        manifest: {
          layers: [
            {
              mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar',
              digest: `sha256:${sum}`,
              size: 1,
              urls: [`file://${canary}`],
            },
          ],
        },
      },
      /stored outside of the registry/,
    ),
    around('layers that are an object', { manifest: { layers: { length: 1 } } }, /no list of/),
    around('an index that is null', { index: null }, /index\.json has no list of manifests/),
    around(
      'an index whose manifests are numbers',
      { index: { manifests: [1] } },
      /index\.json has no list of manifests/,
    ),
    around('an index without an image', { index: { manifests: [] } }, /index\.json has no image/),
    around(
      'an index whose digest is a path',
      { index: { manifests: [{ digest: canary, size: 1 }] } },
      /not a sha256 digest/,
    ),
    around(
      'an index with a negative size',
      { index: { manifests: [{ digest: `sha256:${sum}`, size: -1 }] } },
      /without a size/,
    ),
    around(
      'a layout of version 2',
      { layout: { imageLayoutVersion: '2.0.0' } },
      /not an OCI image layout of version 1/,
    ),
    around(
      'a layout whose version is a list',
      { layout: { imageLayoutVersion: [] } },
      /not an OCI image layout of version 1/,
    ),
    ...hostileArchives(canary),
  ];
}

/** Outer archives: what the package tar lets pass is judged here. */
function hostileArchives(canary: string): Hostile[] {
  const files = layoutOf([layer(good)]);
  const outer = (
    what: string,
    members: (Member | Buffer)[],
    refusal: RegExp,
    transport = 'oci-archive',
  ): Hostile => ({ what: `${transport}: ${what}`, transport, files: archiveOf(files, ...members), refusal });
  const docker = (what: string, manifest: unknown, refusal: RegExp, ...more: Member[]): Hostile => ({
    what: `docker-archive: ${what}`,
    transport: 'docker-archive',
    files: archive(
      { name: 'manifest.json', data: typeof manifest === 'string' ? manifest : JSON.stringify(manifest) },
      { name: 'c.json', data: JSON.stringify({ rootfs: { diff_ids: [`sha256:${sum}`] } }) },
      ...more,
    ),
    refusal,
  });
  const one = (layers: unknown, config: unknown = 'c.json') => [
    { Config: config, RepoTags: null, Layers: layers },
  ];
  return [
    outer('a name upwards', [pwned('../outside/canary')], /no name of a file of an image/),
    outer('an absolute name', [pwned(canary)], /no name of a file of an image/),
    outer('a name with a control character', [pwned('a\x1b[2J')], /no name of a file of an image/),
    outer('two files of one name', [pwned('index.json')], /index\.json.*it is there twice/),
    outer('two names of one file, by ./', [pwned('./index.json')], /it is there twice/),
    outer('a link', [link('blobs/x', canary)], /SymbolicLink is not a regular file/),
    outer('a device', [{ name: 'x', type: '4', device: [8, 0] }], /BlockDevice is not a regular file/),
    outer(
      'a negative size',
      [member({ name: 'x', size: base256(-1n).replace(/^./, '\xff') })],
      /"x" has no size/,
    ),
    outer('a huge size', [member({ name: 'x', size: '77777777777\0' })], /it is truncated in/),
    outer('a wrong checksum', [member({ name: 'x', checksum: '000000\0 ' })], /wrong checksum/),
    outer(
      'a pax name upwards',
      [member({ pax: { path: '../outside/canary' } })],
      /no name of a file of an image/,
    ),
    outer(
      'a global pax header',
      [member({ name: 'g', type: 'g', data: '20 path=../outside\n\n' })],
      /GlobalExtendedHeader is not a regular file/,
    ),
    {
      what: 'an outer archive of too many entries',
      transport: 'oci-archive',
      files: archive(...Array.from({ length: 10_001 }, (_, index) => member({ name: `x${index}` }))),
      refusal: /more than 10000 entries/,
    },
    {
      what: 'an outer archive without files',
      transport: 'oci-archive',
      files: archive(folder('x/')),
      refusal: /it has no files/,
    },
    {
      what: 'no archive',
      transport: 'docker-archive',
      files: Buffer.from('x'.repeat(2000)),
      refusal: /it is not a tar archive/,
    },
    {
      what: 'an empty file',
      transport: 'docker-archive',
      files: Buffer.alloc(0),
      refusal: /it has no files/,
    },
    {
      what: 'an archive of something else',
      transport: 'docker-archive',
      files: archive(...good),
      refusal: /it has no file "manifest\.json"/,
    },
    docker('a manifest that is no JSON', '{', /manifest\.json is not JSON/),
    docker('a manifest that is an object', {}, /not a list of images/),
    docker('a manifest without images', [], /not a list of images/),
    docker('a manifest of null', [null], /without Config or Layers/),
    docker('layers that are no texts', one([1]), /without Config or Layers/),
    docker(
      'tags that are no texts',
      [{ Config: 'c.json', Layers: [], RepoTags: [1] }],
      /RepoTags are not a list/,
    ),
    docker('a layer outside', one(['../outside/canary']), /it has no file "\.\.\/outside\/canary"/),
    docker('a layer that is a link outside', one(['l']), /it has no file/, link('l', canary)),
    docker('a layer that is a link upwards', one(['l']), /it has no file/, link('l', '../../outside/canary')),
    docker(
      'layers that are links in a circle',
      one(['a']),
      /a link to a link/,
      link('a', 'b'),
      link('b', 'a'),
    ),
    docker('a configuration outside', one([], canary), /it has no file/),
    docker('a configuration of another digest', one([], `${sum}.json`), /has the digest/, {
      name: `${sum}.json`,
      data: '{}',
    }),
    docker('a layer of another digest', one(['l']), /the digest/, { name: 'l', data: archive(...good) }),
  ];
}

test('there are at least 30 of them', () => {
  assert(hostileImages('/outside').length >= 30);
});

test('hostile images change nothing outside of DEST', root, async (t) => {
  const made = sandbox(t);
  writeFileSync(join(made.outside, 'x'), 'x');
  const images = hostileImages(made.outside);
  const names = images.map(({ files }, index) =>
    Buffer.isBuffer(files)
      ? made.file(`image-${index}`, files)
      : writeFiles(join(made.top, `image-${index}`), files),
  );
  const before = made.canary();
  for (const [index, { what, transport = 'oci', options = [], refusal, holds }] of images.entries())
    await t.test(what, async () => {
      const dest = `${made.dest}-${index}`;
      const source = `${transport}:${names[index]}`;
      const { code, stderr, stdout } = await run([...options, source, dest], { program });
      assert.equal(made.canary(), before, stderr);
      if (refusal) {
        assert.match(stderr, refusal);
        assert.match(stderr, /^fetch-rootfs: cannot fetch .*\n$/m);
        assert.equal(code, 1, stderr);
        assert.equal(stdout, '');
        assert.deepEqual(
          made.left().filter((name) => name.includes(`dest-${index}`)),
          [],
        );
      } else {
        assert.equal(code, 0, stderr);
        assert.deepEqual(readdirSync(dest).sort(), ['.image.json', ...(holds ?? [])].sort());
      }
    });
});
