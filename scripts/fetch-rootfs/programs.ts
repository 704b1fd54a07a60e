// Running a program without zx, which fetch-rootfs.ts loads nowhere else.
import { type ExecFileOptions, execFile } from 'node:child_process';

/**
 * Runs a program to its end. Rejects where it fails, with what it printed. This is promisify(execFile), but importing
 * node:util makes a pipe on standard error non-blocking, for all who share it.
 */
export const runFile = (file: string, words: string[], options: ExecFileOptions = {}) =>
  new Promise<{ stdout: string; stderr: string }>((resolve, reject) => {
    execFile(file, words, { ...options, encoding: 'utf8' }, (error, stdout, stderr) => {
      if (error) reject(Object.assign(error, { stdout, stderr }));
      else resolve({ stdout, stderr });
    });
  });
