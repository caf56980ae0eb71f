// The signal as one line per channel, and below it the decisions on the same axis of time.
const LANE_PX = 28;
const SVG = "http://www.w3.org/2000/svg";

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name);
}

// points: [[least of every channel], [largest of every channel]], oldest first; the newest is at the right edge.
export function drawSignal(canvas, points, channels, capacity) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = channels * LANE_PX;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  let largest = 1;
  for (const [low, high] of points) {
    for (let c = 0; c < channels; c++) largest = Math.max(largest, -low[c], high[c]);
  }
  const step = width / capacity, first = width - points.length * step;
  pen.font = "11px system-ui, sans-serif";
  for (let c = 0; c < channels; c++) {
    const middle = (c + 0.5) * LANE_PX, scale = (0.5 * LANE_PX) / largest;
    pen.strokeStyle = colour("--line");
    pen.beginPath();
    pen.moveTo(0, middle);
    pen.lineTo(width, middle);
    pen.stroke();
    pen.strokeStyle = colour("--accent");
    pen.beginPath();
    points.forEach(([low, high], i) => {
      const x = first + (i + 0.5) * step;
      pen.moveTo(x, middle - high[c] * scale - 0.5);
      pen.lineTo(x, middle - low[c] * scale + 0.5);
    });
    pen.lineWidth = Math.max(1, 0.8 * step);
    pen.stroke();
    pen.lineWidth = 1;
    pen.fillStyle = colour("--soft");
    pen.fillText(String(c + 1), 4, middle - 4);
  }
}

// Consecutive equal decisions become one block, named where the name fits.
export function drawTrack(track, decisions, gestures, seconds) {
  const width = track.clientWidth, end = decisions.at(-1)?.at_s ?? 0, begin = end - seconds;
  const blocks = [];
  decisions.forEach((d, i) => {
    const from = i ? decisions[i - 1].at_s : d.at_s;
    const last = blocks.at(-1);
    if (d.at_s < begin) return;
    if (last && last.gesture === d.gesture) last.to = d.at_s;
    else blocks.push({ gesture: d.gesture, from: Math.max(from, begin), to: d.at_s });
  });
  const svg = document.createElementNS(SVG, "svg");
  for (const block of blocks) {
    const x = ((block.from - begin) / seconds) * width, w = ((block.to - block.from) / seconds) * width;
    const rect = document.createElementNS(SVG, "rect");
    for (const [k, v] of Object.entries({ x, y: 0, width: Math.max(0, w - 1), height: 40 })) rect.setAttribute(k, v);
    rect.setAttribute("class", block.gesture === null ? "none" : "held");
    svg.append(rect);
    const name = block.gesture === null ? "" : gestures[block.gesture];
    if (w > 7.5 * name.length + 8) {
      const text = document.createElementNS(SVG, "text");
      text.setAttribute("x", x + 5);
      text.setAttribute("y", 20);
      text.textContent = name;
      svg.append(text);
    }
  }
  track.replaceChildren(svg);
}
