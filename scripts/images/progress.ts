// Progress bars on standard error, where that is a terminal.
import { escapeControls } from '../helpers/messages.ts';
import { formatSize } from '../helpers/units.ts';

/** What is under way: a line of its own. */
interface Bar {
  label: string;
  total: { length?: number | undefined };
  bytes: number;
  /** bytes that were there before; they say nothing about the speed */
  startBytes: number;
  startMilliseconds: number;
}

const isTerminal = () => process.stderr.isTTY === true;

/** Bars below each other, and lines of text above them. Where no terminal is, only the text is printed. */
export class Progress {
  readonly #bars = new Set<Bar>();
  #drawnLines = 0;
  #drawnMilliseconds = 0;

  /** Passes chunks on and draws a bar of them; `total.length` may come later. */
  async *show(
    chunks: AsyncIterable<Buffer>,
    label: string,
    total: { length?: number | undefined },
    startBytes = 0,
  ): AsyncGenerator<Buffer> {
    if (!isTerminal()) return yield* chunks;
    const startMilliseconds = performance.now();
    const bar = { label: escapeControls(label), total, bytes: startBytes, startBytes, startMilliseconds };
    this.#bars.add(bar);
    try {
      for await (const chunk of chunks) {
        bar.bytes += chunk.length;
        const now = performance.now();
        if (now - this.#drawnMilliseconds > 100) {
          this.#drawnMilliseconds = now;
          this.#draw();
        }
        yield chunk;
      }
    } finally {
      this.#bars.delete(bar);
      if (this.#drawnLines > 0) this.#draw();
    }
  }

  /** Prints a line of text above the bars. */
  say(text: string): void {
    const isDrawn = this.#drawnLines > 0;
    if (isDrawn) this.#clear();
    console.error(escapeControls(text));
    if (isDrawn) this.#draw();
  }

  /** Removes all bars for good: what is still under way is of no interest any more. */
  end(): void {
    if (this.#drawnLines > 0) this.#clear();
    this.#drawnMilliseconds = Infinity;
  }

  /** Removes the bars from the screen. */
  #clear(): void {
    process.stderr.write(`${this.#toTop()}\x1b[J`);
    this.#drawnLines = 0;
  }

  /** What moves the cursor to the first bar. */
  #toTop = () => `\r${this.#drawnLines > 1 ? `\x1b[${this.#drawnLines - 1}A` : ''}`;

  /** Draws the bars over the ones before. */
  #draw(): void {
    const width = process.stderr.columns || 80;
    const lines = [...this.#bars].map(({ label, total, bytes, startBytes, startMilliseconds }) => {
      const seconds = (performance.now() - startMilliseconds) / 1000;
      return `${progressLine(label, bytes, total.length, seconds, width, startBytes)}\x1b[K`;
    });
    process.stderr.write(`${this.#toTop()}${lines.join('\n')}\x1b[J`);
    this.#drawnLines = lines.length;
  }
}

/** `rootfs.tar.gz [#####     ]  12.3 MiB of 27 MiB, 5.1 MiB/s, 3 s left`, cut to the terminal's width. */
export function progressLine(
  label: string,
  bytes: number,
  length: number | undefined,
  seconds: number,
  width: number,
  startBytes = 0,
): string {
  const rate = (bytes - startBytes) / Math.max(seconds, 0.001);
  const bar = length ? ` [${'#'.repeat(Math.round(Math.min(bytes / length, 1) * 20)).padEnd(20)}]` : '';
  const of = length ? ` of ${formatSize(length)}` : '';
  const left = length && rate > 0 ? `, ${Math.ceil((length - bytes) / rate)} s left` : '';
  return `${label}${bar} ${formatSize(bytes)}${of}, ${formatSize(Math.round(rate))}/s${left}`.slice(
    0,
    width - 1,
  );
}
