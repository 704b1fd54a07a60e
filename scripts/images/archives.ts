// Images in files: what docker save and podman save write, and the OCI image layout as a directory or an archive. The
// package tar reads the headers of such an archive; nothing of it is unpacked, its layers are read where they are.
// https://github.com/opencontainers/image-spec/blob/main/image-layout.md
import { createHash } from 'node:crypto';
import { constants, statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { basename, join, posix } from 'node:path';
import { Failure, reason, UsageError } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { manifestTypes, maxManifestBytes } from './choose.ts';
import { decompress, findCompression, isTar, startBytes } from './compression.ts';
import { collect } from './http.ts';
import {
  blobName,
  checkDigest,
  type Descriptor,
  type ImageSource,
  isObject,
  isText,
  type Manifest,
} from './image.ts';
import { block } from './inspector.ts';
import { type Part, readPart, spool } from './spool.ts';
import { digestOf, readBlob } from './verify.ts';

/** An image in a file, as skopeo(1) names it: TRANSPORT:PATH[:REFERENCE]. */
export interface ArchiveName {
  transport: 'docker-archive' | 'oci-archive' | 'oci';
  /** `-` is standard input */
  path: string;
  /** a tag, a name with a tag, or `@N` for the image number N from 0; undefined: there is only one */
  reference: string | undefined;
}

/** Parses SOURCE; undefined if it names no image in a file. Throws UsageError if there is no path. */
export function parseArchiveName(source: string): ArchiveName | undefined {
  const [, transport, rest = ''] = /^(docker-archive|oci-archive|oci):(.*)$/s.exec(source) ?? [];
  if (!transport) return undefined;
  // a path may have colons: the longest one that exists counts
  const ends = [...rest.matchAll(/:|$/g)].map(({ index }) => index);
  const exists = (end: number) => attempt(() => statSync(rest.slice(0, end)));
  const end = ends.findLast(exists) ?? (ends[0] as number);
  const path = rest.slice(0, end);
  if (path === '' || (path === '-' && transport === 'oci'))
    throw new UsageError(`no path in ${source}: type ${transport}:PATH[:REFERENCE]`);
  return {
    transport: transport as ArchiveName['transport'],
    path,
    reference: rest.slice(end + 1) || undefined,
  };
}

/** The name of an archive without its format: `web` of `/tmp/web.tar.gz`. */
export const stemOf = (path: string): string =>
  basename(path).replace(/\.tar(\.\w+)?$|\.t[gxb]z2?$|\.tzst$/, '');

/** Options of openArchive: where to keep what has to be decompressed, and how much of it. */
export interface ArchiveOptions {
  /** the path of a file that is made for it, and removed at once */
  scratch: string;
  maxBytes: number;
}

/** An image in a file, which may be other images too. */
export interface ArchiveSource extends ImageSource {
  /** The file in the archive or directory that is a blob. Throws Failure if there is none. */
  fileOf(digest: string): Promise<string>;
}

/** Opens an image in a file. Of a compressed one, or of standard input, it makes a copy. Throws a Failure. */
export async function openArchive(name: ArchiveName, options: ArchiveOptions): Promise<ArchiveSource> {
  const files = name.transport === 'oci' ? new Directory(name.path) : await Archive.open(name, options);
  try {
    return name.transport === 'docker-archive'
      ? await openDocker(name, files)
      : await openLayout(name, files);
  } catch (error) {
    await files.close();
    throw error;
  }
}

/** A file of an image, and the name that it has without links. */
interface File extends Part {
  name: string;
}

/** Files by their names. */
interface Files {
  /** Throws a Failure if there is no such file. */
  find(name: string): Promise<File>;
  close(): Promise<void>;
}

/** The files of a directory. */
class Directory implements Files {
  #path: string;
  #open: FileHandle[] = [];

  constructor(path: string) {
    this.#path = path;
  }

  async find(name: string): Promise<File> {
    const path = join(this.#path, name);
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error) => {
      throw new Failure(`${path}: ${reason(error)}`, { cause: error });
    });
    this.#open.push(file);
    const stats = await file.stat();
    // a FIFO would have no end
    if (!stats.isFile()) throw new Failure(`${path} is not a regular file`);
    return { name, file, start: 0, size: stats.size };
  }

  async close(): Promise<void> {
    for (const file of this.#open.splice(0)) await file.close();
  }
}

const maxEntries = 10_000;
const maxHeaderBytes = 1 << 20;
/** each layer of an old docker archive may be a link to another, and that one again */
const maxLinks = 16;

/** The files of a tar archive. */
class Archive implements Files {
  #whole: Part;
  #files = new Map<string, File>();
  #links = new Map<string, string>();

  private constructor(whole: Part) {
    this.#whole = whole;
  }

  static async open(name: ArchiveName, options: ArchiveOptions): Promise<Archive> {
    const archive = new Archive(await openPlain(name.path, options));
    try {
      await archive.#index(name.transport === 'docker-archive');
    } catch (error) {
      await archive.close();
      throw error;
    }
    return archive;
  }

  async find(name: string): Promise<File> {
    let target = name;
    for (let links = 0; links < maxLinks; links++) {
      const part = this.#files.get(target);
      if (part) return part;
      const next = this.#links.get(target);
      if (next === undefined) throw new Failure(`it has no file ${show(target)}`);
      target = next;
    }
    throw new Failure(`${show(name)} is a link to a link, and so on`);
  }

  close = () => this.#whole.file.close();

  /** Reads the headers of all entries. Only regular files, directories and, in a docker archive, links to files in it. */
  async #index(takesLinks: boolean): Promise<void> {
    const [{ Header }, { Pax }] = await Promise.all([import('tar/header'), import('tar/pax')]);
    const { file, size: end } = this.#whole;
    const read = async (start: number, size: number) => {
      const bytes = await collect(readPart({ file, start, size }), size);
      if (bytes.length < size) throw new Failure('it is truncated in a header');
      return bytes;
    };
    let pax: InstanceType<typeof Pax> | undefined;
    let entries = 0;
    for (let at = 0; at < end; ) {
      const header = new Header(await read(at, block), 0, pax);
      if (header.nullBlock) break;
      if (!header.cksumValid)
        throw new Failure(at === 0 ? 'it is not a tar archive' : 'a header with a wrong checksum');
      if (++entries > maxEntries)
        throw new Failure(`it has more than ${maxEntries} entries: it is not an image`);
      const { type, path = '', size = -1, linkpath = '' } = header;
      at += block;
      if (!Number.isSafeInteger(size) || size < 0) throw new Failure(`${show(path)} has no size`);
      if (at + size > end) throw new Failure(`it is truncated in ${show(path)}`);
      if (type === 'ExtendedHeader') {
        if (pax || size > maxHeaderBytes) throw new Failure('two pax headers for one entry, or a large one');
        pax = Pax.parse((await read(at, size)).toString(), undefined);
      } else {
        pax = undefined;
        this.#add(type, path, { file, start: at, size }, takesLinks ? linkpath : undefined);
      }
      at += Math.ceil(size / block) * block;
    }
    if (this.#files.size === 0) throw new Failure('it is not an image: it has no files');
  }

  #add(type: string, path: string, part: Part, linkpath: string | undefined): void {
    const name = path.replace(/^\.\//, '').replace(/\/$/, '');
    const refuse = (why: string) => new Failure(`entry ${show(path)}: ${why}`);
    if (type === 'Directory') return;
    if (!/^[\w.+:@=-]+(\/[\w.+:@=-]+)*$/.test(name) || name.split('/').some((word) => /^\.\.?$/.test(word)))
      throw refuse('no name of a file of an image');
    if (this.#files.has(name) || this.#links.has(name)) throw refuse('it is there twice');
    if (['File', 'OldFile', 'ContiguousFile'].includes(type)) this.#files.set(name, { name, ...part });
    else if ((type === 'SymbolicLink' || type === 'Link') && linkpath !== undefined)
      this.#links.set(name, posix.join(type === 'Link' ? '' : posix.dirname(name), linkpath));
    else throw refuse(`${type} is not a regular file`);
  }
}

/** An archive as a file that can be read anywhere. Of a compressed one, or a stream, it makes a copy without a name. */
async function openPlain(path: string, { scratch, maxBytes }: ArchiveOptions): Promise<Part> {
  if (path === '-') return spool(decompress(process.stdin), scratch, maxBytes);
  const file = await open(path, 'r');
  const stats = await file.stat();
  if (stats.isDirectory()) throw new Failure(`EISDIR: it is a directory: an OCI layout is oci:${path}`);
  const whole = { file, start: 0, size: stats.isFile() ? stats.size : Infinity };
  if (stats.isFile()) {
    const start = await collect(readPart({ ...whole, size: Math.min(stats.size, startBytes) }), startBytes);
    if (!findCompression(start)) return whole;
  }
  try {
    return await spool(decompress(file.createReadStream({ autoClose: false })), scratch, maxBytes);
  } finally {
    await file.close();
  }
}

/** A text of others for a message. */
const show = (text: string) => JSON.stringify(text.slice(0, 200));

/** A file that is JSON. Throws a Failure. */
async function readJson(files: Files, name: string): Promise<unknown> {
  const part = await files.find(name);
  if (part.size > maxManifestBytes) throw new Failure(`${name} is larger than ${maxManifestBytes} bytes`);
  const bytes = await collect(readPart(part), maxManifestBytes);
  try {
    return JSON.parse(bytes.toString());
  } catch {
    throw new Failure(`${name} is not JSON`);
  }
}

/** An image of an archive: the names that it has there. */
interface Named {
  names: string[];
}

/** Images by their first names, or by their numbers, for a message. */
const firstNames = (images: Named[]) => images.map(({ names: [first] }, index) => first ?? `@${index}`);
const showNames = (names: string[]) =>
  `${names.slice(0, 10).map(show).join(', ')}${names.length > 10 ? ' …' : ''}`;

/**
 * The images that a reference names: by a whole name, by its end after a slash, without `:latest`, or `@N` by number.
 * Without a reference they are all images. Throws a Failure with the names if there is none.
 */
function pick<Image extends Named>(images: Image[], { transport, path, reference }: ArchiveName): Image[] {
  if (reference === undefined) return images;
  const number = /^@(\d{1,9})$/.exec(reference)?.[1];
  const isNamed = (form: (name: string) => boolean) => images.filter((image) => image.names.some(form));
  const forms = [
    (name: string) => name === reference,
    (name: string) => name === `${reference}:latest`,
    (name: string) => name.endsWith(`/${reference}`) || name.endsWith(`/${reference}:latest`),
  ];
  const found =
    number === undefined
      ? forms.map(isNamed).find((list) => list.length > 0)
      : images.slice(Number(number), Number(number) + 1);
  if (!found || found.length === 0)
    throw new Failure(
      `it has no image ${show(reference)}, but ${showNames(firstNames(images))}: type ${transport}:${path}:REFERENCE`,
    );
  return found;
}

/** The error for several images of which none was chosen. */
const ambiguous = (images: Named[], { transport, path }: ArchiveName) => {
  const names = firstNames(images);
  return new Failure(
    `it has ${images.length} images, ${showNames(names)}: choose one, such as ${transport}:${path}:${names[0]}`,
  );
};

/** An OCI image layout. */
async function openLayout(name: ArchiveName, files: Files): Promise<ArchiveSource> {
  const layout = await readJson(files, 'oci-layout');
  const { imageLayoutVersion: version } = isObject(layout) ? layout : {};
  if (!isText(version) || !version.startsWith('1.'))
    throw new Failure(
      `it is not an OCI image layout of version 1: imageLayoutVersion is ${show(String(version))}`,
    );
  const index = await readJson(files, 'index.json');
  if (!isObject(index) || !Array.isArray(index.manifests) || !index.manifests.every(isObject))
    throw new Failure('index.json has no list of manifests');
  const images = index.manifests.map((manifest) => {
    const { annotations } = manifest;
    const values = isObject(annotations)
      ? ['org.opencontainers.image.ref.name', 'io.containerd.image.name'].map((key) => annotations[key])
      : [];
    return { manifest, names: values.filter(isText) };
  });
  const blobPart = (digest: string) => files.find(blobName(digest));
  const source: ArchiveSource = {
    name: showName(name),
    async openManifest(reference) {
      if (reference.startsWith('sha256:'))
        return { mediaType: '', bytes: await collect(readPart(await blobPart(reference)), maxManifestBytes) };
      const found = pick(images, name);
      const [first] = found;
      if (!first) throw new Failure('index.json has no image');
      // several of one name are those of one image, each for a platform; so are several without a name
      if (found.length > 1) {
        if (found.some(({ names }) => names[0] !== first.names[0])) throw ambiguous(found, name);
        const manifests = found.map(({ manifest }) => manifest);
        const bytes = Buffer.from(
          JSON.stringify({ schemaVersion: 2, mediaType: manifestTypes[0], manifests }),
        );
        return { mediaType: manifestTypes[0], bytes };
      }
      const { mediaType, digest, size } = first.manifest;
      if (!Number.isSafeInteger(size) || (size as number) < 0)
        throw new Failure('index.json has an image without a size');
      const blob = {
        mediaType: isText(mediaType) ? mediaType : '',
        digest: checkDigest(digest),
        size: size as number,
      };
      return { mediaType: blob.mediaType, bytes: await readBlob(source, blob, maxManifestBytes) };
    },
    async *openBlob({ digest }, offsetBytes) {
      yield* readPart(await blobPart(digest), offsetBytes);
    },
    fileOf: async (digest) => (await blobPart(digest)).name,
    close: () => files.close(),
  };
  return source;
}

const showName = ({ transport, path, reference }: ArchiveName) =>
  `${transport}:${path}${reference === undefined ? '' : `:${reference}`}`;

/** An entry of manifest.json, as docker save writes it. */
interface DockerImage extends Named {
  config: string;
  layers: string[];
}

/** What docker save and podman save write, in either layout: it has no manifest of the OCI, so one is made here. */
async function openDocker(name: ArchiveName, files: Files): Promise<ArchiveSource> {
  const list = await readJson(files, 'manifest.json');
  if (!Array.isArray(list) || list.length === 0) throw new Failure('manifest.json is not a list of images');
  const images = list.map((value: unknown): DockerImage => {
    const { Config: config, Layers: layers, RepoTags: names } = isObject(value) ? value : {};
    if (!isText(config) || !Array.isArray(layers) || !layers.every(isText))
      throw new Failure('manifest.json has an image without Config or Layers');
    if (!Array.isArray(names ?? []) || !((names ?? []) as unknown[]).every(isText))
      throw new Failure('manifest.json has an image whose RepoTags are not a list of names');
    return { config, layers, names: (names ?? []) as string[] };
  });
  const found = pick(images, name);
  const [image] = found;
  if (!image || found.length > 1) throw ambiguous(found, name);
  const configPart = await files.find(image.config);
  const config = await collect(readPart(configPart), maxManifestBytes);
  const blobs = new Map([[digestOf(config), configPart]]);
  const [, hex] = /^(?:blobs\/sha256\/)?([0-9a-f]{64})(?:\.json)?$/.exec(image.config) ?? [];
  if (hex && !blobs.has(`sha256:${hex}`))
    throw new Failure(`${image.config} has the digest ${digestOf(config)}`);
  const ids = (attempt(() => JSON.parse(config.toString())?.rootfs?.diff_ids) ?? []) as unknown[];
  const layers: Descriptor[] = [];
  for (const [index, layer] of image.layers.entries()) {
    const part = await files.find(layer);
    const digest = await findDigest(layer, part, ids[index]);
    blobs.set(digest, part);
    layers.push({ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, size: part.size });
  }
  const mediaType = manifestTypes[1];
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType,
    config: {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: digestOf(config),
      size: config.length,
    },
    layers,
  };
  const blobPart = (digest: string) => {
    const part = blobs.get(digest);
    if (!part) throw new Failure(`it has no ${digest}`);
    return part;
  };
  return {
    name: showName(name),
    openManifest: async () => ({ mediaType, bytes: Buffer.from(JSON.stringify(manifest)) }),
    openBlob: ({ digest }, offsetBytes) => readPart(blobPart(digest), offsetBytes),
    fileOf: async (digest) => blobPart(digest).name,
    close: () => files.close(),
  };
}

/** The digest of a layer: in its name, or that of its configuration if it is not compressed, or else read. */
async function findDigest(name: string, part: Part, diffId: unknown): Promise<string> {
  const [, hex] = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(name) ?? [];
  if (hex) return `sha256:${hex}`;
  const start = await collect(readPart({ ...part, size: Math.min(block, part.size) }), block);
  const known = isTar(start) ? attempt(() => checkDigest(diffId)) : undefined;
  if (known) return known;
  const hash = createHash('sha256');
  for await (const chunk of readPart(part)) hash.update(chunk);
  return `sha256:${hash.digest('hex')}`;
}
