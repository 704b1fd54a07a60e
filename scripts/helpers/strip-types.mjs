// Lets Node 20 run .ts files: where node does not strip types itself, load hooks that do.
import { register } from 'node:module';

if (!process.features.typescript) {
  // The hooks announce nothing new on Node 20, where they are as stable as they will get.
  register('./strip-types-hooks.mjs', import.meta.url);
}
