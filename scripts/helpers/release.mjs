// npm run release: makes release/, all files of a version: the package for npm install -g, each script as one file, the
// completions, the changes, and the sums by which sha256sum -c SHA256SUMS checks a download.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const top = fileURLToPath(new URL('../../', import.meta.url));
const release = join(top, 'release');
const { version } = JSON.parse(readFileSync(join(top, 'package.json'), 'utf8'));
const changes = readFileSync(join(top, 'CHANGELOG.md'), 'utf8');
if (!changes.includes(`\n## ${version}\n`)) {
  console.error(`release: CHANGELOG.md has no section "## ${version}": write down what has changed`);
  process.exit(1);
}

rmSync(release, { recursive: true, force: true });
mkdirSync(join(release, 'completions'), { recursive: true });
// its prepack builds dist/ and man/
execFileSync('npm', ['pack', '--silent', '--pack-destination', release], { cwd: top });
for (const file of readdirSync(join(top, 'dist'))) copyFileSync(join(top, 'dist', file), join(release, file));
for (const [shell, file] of [
  ['bash', 'barehand.bash'],
  ['zsh', '_barehand'],
  ['fish', 'barehand.fish'],
]) {
  const text = execFileSync(process.execPath, [join(top, 'dist/barehand.mjs'), 'completion', shell]);
  writeFileSync(join(release, 'completions', file), text);
}
copyFileSync(join(top, 'CHANGELOG.md'), join(release, 'CHANGELOG.md'));
const files = readdirSync(release, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(release.length + 1))
  .sort();
const sum = (file) =>
  createHash('sha256')
    .update(readFileSync(join(release, file)))
    .digest('hex');
writeFileSync(join(release, 'SHA256SUMS'), files.map((file) => `${sum(file)}  ${file}\n`).join(''));
console.log(release);
