// The prompt of an interactive shell in a container: it shows where one is, as in `root@web:/#`.
import { basename, posix } from 'node:path';
import { findName, readInRoot } from './command.ts';

/** A prompt that prompt() has made: the shell expands $PWD each time, sh(1p). */
const made = /^PS1=[\w.-]+@[\w.-]+:\$PWD[#$] $/;

/** The files that a shell reads when it starts, if it is interactive: bash(1), dash(1). */
function startFiles(shell: string, isLogin: boolean, home: string, environment: string[]): string[] {
  const inHome = (names: string) => names.split(' ').map((name) => posix.join(home, name));
  if (shell === 'bash')
    return isLogin
      ? ['/etc/profile', ...inHome('.bash_profile .bash_login .profile .bashrc'), '/etc/bash.bashrc']
      : ['/etc/bash.bashrc', ...inHome('.bashrc')];
  const named = environment.findLast((variable) => variable.startsWith('ENV='))?.slice('ENV='.length);
  return [...(isLogin ? ['/etc/profile', ...inHome('.profile')] : []), ...(named ? [named] : [])];
}

/** Whether a command is an interactive shell: sh, ash, dash, ksh, mksh or bash, without a program to run. */
export const isShell = ([program = '', ...words]: string[]) =>
  /^(a|da|k|mk|ba)?sh$/.test(basename(program)) &&
  words.every((word) => /^(-[il]+|--login|--norc|--noprofile|--posix)$/.test(word));

/**
 * The variable PS1 for a command that is an interactive shell. Empty for other commands; if `environment`, KEY=VALUE, has a
 * PS1 that prompt() did not make; or if a start file of the shell sets PS1. The container may have written these files, and
 * any name of a user: only plain names are shown, since a shell expands PS1.
 */
export function prompt(
  rootfs: string,
  command: string[],
  {
    uid,
    home,
    hostname,
    environment,
  }: { uid: number; home: string; hostname: string; environment: string[] },
): string[] {
  if (!isShell(command)) return [];
  if (environment.some((variable) => variable.startsWith('PS1=') && !made.test(variable))) return [];
  const isLogin = command.some((word) => /^(-i*l|--login)/.test(word));
  const setsPrompt = (path: string) => /\bPS1=/.test(path.startsWith('/') ? readInRoot(rootfs, path) : '');
  if (startFiles(basename(command[0] ?? ''), isLogin, home, environment).some(setsPrompt)) return [];
  const plain = (name: string | undefined) => (name && /^[\w.-]+$/.test(name) ? name : undefined);
  const host = plain(hostname);
  if (host === undefined) return [];
  return [`PS1=${plain(findName(rootfs, uid)) ?? uid}@${host}:$PWD${uid === 0 ? '#' : '$'} `];
}
