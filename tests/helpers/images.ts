// Images of a test's own making: OCI layouts and docker archives, right and wrong ones.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { archive, type Member } from './archives.ts';

export const digestOf = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const json = (value: unknown) => Buffer.from(JSON.stringify(value));

/** A layer: what its blob is, and the tar archive in it. */
export interface Layer {
  tar: Buffer;
  blob: Buffer;
  mediaType: string;
}

const layerType = 'application/vnd.oci.image.layer.v1.tar';

/** A layer of these entries, or of a whole archive; `compress` makes its blob. */
export function layer(
  parts: (Member | Buffer)[] | Buffer,
  compress?: (tar: Buffer) => Buffer,
  suffix = '+gzip',
): Layer {
  const tar = Buffer.isBuffer(parts) ? parts : archive(...parts);
  return { tar, blob: compress?.(tar) ?? tar, mediaType: compress ? layerType + suffix : layerType };
}

/** What a test changes of an image that would be right. */
export interface Changes {
  config?: Record<string, unknown>;
  manifest?: Record<string, unknown>;
  index?: unknown;
  layout?: unknown;
  /** blobs that replace those of these digests */
  blobs?: (digests: { config: string; manifest: string; layers: string[] }) => Record<string, Buffer>;
}

/** The files of an OCI layout with one image, by their names. */
export function layoutOf(layers: Layer[], tag = 'latest', changes: Changes = {}): Record<string, Buffer> {
  const config = json({
    architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
    os: 'linux',
    config: { Cmd: ['/bin/sh'] },
    rootfs: { type: 'layers', diff_ids: layers.map(({ tar }) => digestOf(tar)) },
    ...changes.config,
  });
  const descriptors = layers.map(({ blob, mediaType }) => ({
    mediaType,
    digest: digestOf(blob),
    size: blob.length,
  }));
  const manifest = json({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: digestOf(config),
      size: config.length,
    },
    layers: descriptors,
    ...changes.manifest,
  });
  const index = {
    schemaVersion: 2,
    manifests: [
      {
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        digest: digestOf(manifest),
        size: manifest.length,
        annotations: { 'org.opencontainers.image.ref.name': tag },
      },
    ],
  };
  const path = (digest: string) => `blobs/sha256/${digest.slice('sha256:'.length)}`;
  const replaced = changes.blobs?.({
    config: digestOf(config),
    manifest: digestOf(manifest),
    layers: descriptors.map(({ digest }) => digest),
  });
  return {
    'oci-layout': json(changes.layout ?? { imageLayoutVersion: '1.0.0' }),
    'index.json': json('index' in changes ? changes.index : index),
    [path(digestOf(config))]: config,
    [path(digestOf(manifest))]: manifest,
    ...Object.fromEntries(layers.map(({ blob }) => [path(digestOf(blob)), blob])),
    ...Object.fromEntries(Object.entries(replaced ?? {}).map(([digest, bytes]) => [path(digest), bytes])),
  };
}

/** Writes files into a directory, with those above them. Returns its path. */
export function writeFiles(directory: string, files: Record<string, Buffer>): string {
  for (const [name, bytes] of Object.entries(files)) {
    mkdirSync(join(directory, name, '..'), { recursive: true });
    writeFileSync(join(directory, name), bytes);
  }
  return directory;
}

/** The same files as a tar archive. */
export const archiveOf = (files: Record<string, Buffer>, ...more: (Member | Buffer)[]) =>
  archive(...Object.entries(files).map(([name, data]) => ({ name, data })), ...more);

/**
 * A tree entry by entry: type, mode, owner, size, time, links, content, extended attributes. Without `.image.json` at its
 * top. Names and values that are not UTF-8 are escaped.
 */
export function treeOf(root: string): string[] {
  const found = execFileSync(
    'find',
    ['.', '-path', './.image.json', '-prune', '-o', '-printf', '%P\\0%y %m %U:%G %n %T@ %l\\0'],
    { cwd: root, encoding: 'latin1', maxBuffer: 1 << 28 },
  ).split('\0');
  const sums = new Map<string, string>();
  const paths = execFileSync('find', ['.', '-type', 'f', '-print0'], { cwd: root, maxBuffer: 1 << 28 });
  const options = { cwd: root, input: paths, encoding: 'latin1' as const, maxBuffer: 1 << 28 };
  for (const line of execFileSync('xargs', ['-0', '-r', 'sha256sum', '-z'], options).split('\0'))
    sums.set(line.slice(68), line.slice(0, 64));
  const everything = execFileSync('find', ['.', '-print0'], { cwd: root, maxBuffer: 1 << 28 });
  const attributes = new Map<string, string>();
  const dump = execFileSync(
    'xargs',
    ['-0', 'getfattr', '-h', '-d', '-m', '-', '-e', 'hex', '--absolute-names'],
    {
      ...options,
      input: everything,
    },
  );
  for (const text of dump.split('\n\n')) {
    const [first = '', ...lines] = text.trim().split('\n');
    const name = first
      .replace(/^# file: (\.\/)?/, '')
      .replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
    if (first) attributes.set(name === '.' ? '' : name, lines.sort().join(' '));
  }
  const lines: string[] = [];
  for (let at = 0; at + 1 < found.length; at += 2) {
    const name = found[at] as string;
    // a directory's number of links tells nothing, and differs between file systems
    const facts = (found[at + 1] as string).replace(/^(d \S+ \S+) \d+/, '$1');
    lines.push(`${name} ${facts} ${sums.get(name) ?? ''} ${attributes.get(name) ?? ''}`.trimEnd());
  }
  return lines.sort();
}
