// Draws DiceBear faces: OUT/drawings/STYLE/SEED.png (160 px, the size they are painted at) and OUT/drawings.json.
// Usage: node draw.mjs OUT [SEEDS_PER_STYLE]. The same versions draw the same pictures.
import fs from "node:fs";
import path from "node:path";
import sharp from "sharp";
import { createAvatar } from "@dicebear/core";
import * as collection from "@dicebear/collection";

const out = process.argv[2];
const seeds = Number(process.argv[3] ?? 400);
if (!out || !Number.isInteger(seeds) || seeds < 1) {
  console.error("usage: node draw.mjs OUT [SEEDS_PER_STYLE]");
  process.exit(2);
}

const SIZE = 160;
const BACKGROUNDS = ["ffffff", "b6e3f4", "c0aede", "d1d4f9", "ffd5dc", "ffdfbf", "c7e9b0", "f4e1a1"];
const STYLES = [
  "adventurer", "bigEars", "bigSmile", "croodles", "dylan", "lorelei", "micah", "miniavs", "notionists", "openPeeps",
  "personas", "pixelArt", "toonHead",
];
// Each package states the licence of its design in its own metadata: a style that changes to another one stops the run.
const ALLOWED = new Set(["CC0 1.0", "CC BY 4.0"]);

sharp.concurrency(1);
const styles = [];
for (const name of STYLES) {
  const { meta } = collection[name];
  if (!ALLOWED.has(meta.license?.name)) {
    console.error(`${name}: licence '${meta.license?.name}' is none of: ${[...ALLOWED].join(", ")}`);
    process.exit(1);
  }
  const folder = name.replace(/[A-Z]/g, (c) => "-" + c.toLowerCase());
  styles.push({
    style: folder, title: meta.title ?? folder, creator: meta.creator, source: meta.source ?? meta.homepage,
    licence: meta.license.name, licence_url: meta.license.url,
  });
  fs.mkdirSync(path.join(out, "drawings", folder), { recursive: true });
  for (let seed = 0; seed < seeds; seed++) {
    const svg = createAvatar(collection[name], {
      seed: `${folder}-${seed}`, size: SIZE * 2, backgroundColor: BACKGROUNDS,
    }).toString();
    await sharp(Buffer.from(svg))
      .flatten({ background: "#fff" })
      .resize(SIZE, SIZE, { kernel: "lanczos3" })
      .removeAlpha()
      .png({ compressionLevel: 6 })
      .toFile(path.join(out, "drawings", folder, `${String(seed).padStart(5, "0")}.png`));
  }
  console.log(`${folder}: ${seeds} drawings, ${meta.license.name}, ${meta.creator}`);
}
fs.writeFileSync(path.join(out, "drawings.json"), JSON.stringify({ size: SIZE, seeds, styles }, null, 1) + "\n");
