// The seven emotions: their order, colours and faces. Colours are the stylesheet's, which a test checks for colour-blind eyes.

export const EMOTIONS = ["neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised"];
export const MODALITIES = ["text", "voice", "face"];

// What makes a face: mouth's curve (smile +), how open it is, brows' slope (angry +), brows' height, lids' opening, nose's wrinkle.
const FACES = {
  neutral: [0, 0, 0, 0, 1, 0],
  happy: [1, 0.25, 0, 0.15, 0.75, 0],
  sad: [-0.8, 0, -0.9, 0.1, 0.7, 0],
  angry: [-0.55, 0.1, 1, -0.5, 0.8, 0],
  fearful: [-0.45, 0.55, -0.75, 0.75, 1.35, 0],
  disgusted: [-0.75, 0.2, 0.5, -0.35, 0.5, 1],
  surprised: [0, 1, -0.1, 1, 1.45, 0],
};

let colours = {};

/** Colours of the present theme: each emotion, and `ink`, `quiet`, `line`, `card`, `well`. */
export function palette() {
  return colours;
}

export function readPalette() {
  const style = getComputedStyle(document.documentElement);
  colours = Object.fromEntries([...EMOTIONS, "ink", "quiet", "line", "card", "well"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** A face's measures, blended by probability; sharpened, so that the face says what the reading says. */
export function blend(probabilities) {
  const sharp = probabilities.map((p) => p ** 1.6);
  const sum = sharp.reduce((a, b) => a + b, 0) || 1;
  return FACES.neutral.map((_, k) => EMOTIONS.reduce((total, name, i) => total + (FACES[name][k] * sharp[i]) / sum, 0));
}

export function faceOf(emotion) {
  return FACES[emotion];
}

const SVG = "http://www.w3.org/2000/svg";

/** The lines of a face in a box of 100 × 100, as SVG paths: two brows, nose, mouth; and how far the lids are open. */
function lines([curve, open, slope, lift, lids, wrinkle]) {
  const browY = 30 - 6 * lift;
  const half = 17 - 5 * open;
  const y = 70 - 3 * curve;
  const bend = 13 * curve;
  return {
    brows: [
      `M24 ${browY - 5 * slope} Q33 ${browY - 3} 41 ${browY + 5 * slope}`,
      `M76 ${browY - 5 * slope} Q67 ${browY - 3} 59 ${browY + 5 * slope}`,
    ],
    nose: `M44 ${56 - 3 * wrinkle} q3 -3 6 0 q3 -3 6 0`,
    mouth: `M${50 - half} ${y} Q50 ${y + bend - 9 * open} ${50 + half} ${y} Q50 ${y + bend + 17 * open} ${50 - half} ${y} Z`,
    lids: Math.max(1.2, 5 * lids),
    wrinkle,
  };
}

/** Draws a face into an <svg viewBox="0 0 100 100">; the same elements are moved from then on. */
export function drawFace(svg, measures, colour) {
  if (!svg.firstChild) {
    for (const [tag, name] of [["circle", "head"], ["path", "brow"], ["path", "brow"], ["ellipse", "eye"], ["ellipse", "eye"], ["path", "nose"], ["path", "mouth"]]) {
      const part = document.createElementNS(SVG, tag);
      part.setAttribute("class", name);
      svg.append(part);
    }
    const head = svg.firstChild;
    for (const [name, value] of [["cx", 50], ["cy", 50], ["r", 45]]) head.setAttribute(name, value);
  }
  const [head, leftBrow, rightBrow, leftEye, rightEye, nose, mouth] = svg.children;
  head.style.stroke = head.style.fill = colour;
  const face = lines(measures);
  leftBrow.setAttribute("d", face.brows[0]);
  rightBrow.setAttribute("d", face.brows[1]);
  for (const [eye, x] of [[leftEye, 33], [rightEye, 67]]) {
    eye.setAttribute("cx", x);
    eye.setAttribute("cy", 43);
    eye.setAttribute("rx", 4.4);
    eye.setAttribute("ry", face.lids);
  }
  nose.setAttribute("d", face.nose);
  nose.style.opacity = face.wrinkle;
  mouth.setAttribute("d", face.mouth);
}

/** The face of an emotion on a canvas, `size` pixels wide around (x, y). */
export function stampFace(context, emotion, x, y, size) {
  const face = lines(FACES[emotion]);
  context.save();
  context.translate(x - size / 2, y - size / 2);
  context.scale(size / 100, size / 100);
  context.strokeStyle = context.fillStyle = colours[emotion];
  context.lineWidth = 8;
  context.beginPath();
  context.arc(50, 50, 45, 0, 2 * Math.PI);
  context.stroke();
  context.globalAlpha = 0.2;
  context.fill();
  context.globalAlpha = 1;
  context.strokeStyle = context.fillStyle = colours.ink;
  context.lineWidth = 6;
  context.lineCap = "round";
  for (const brow of face.brows) context.stroke(new Path2D(brow));
  const mouth = new Path2D(face.mouth);
  context.stroke(mouth);
  context.fill(mouth);
  for (const eye of [33, 67]) {
    context.beginPath();
    context.ellipse(eye, 43, 5, face.lids, 0, 0, 2 * Math.PI);
    context.fill();
  }
  context.restore();
}
