// The audit log: one line per message, its exact bytes on a click.
const at = (id) => document.getElementById(id);
let shown = null;

function span(kind, text) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = text;
  return made;
}

function bytes(n) {
  return n === 1 ? "1 byte" : `${n.toLocaleString("en")} bytes`;
}

// 16 bytes a line, 8 where there is no room, as numbers and as text.
function dump(data) {
  const lines = [], width = window.innerWidth > 640 ? 16 : 8;
  for (let i = 0; i < data.length; i += width) {
    const part = [...data.subarray(i, i + width)];
    const hex = part.map((b) => b.toString(16).padStart(2, "0")).join(" ").padEnd(3 * width);
    const text = part.map((b) => (b > 31 && b < 127 ? String.fromCharCode(b) : "·")).join("");
    lines.push(`${i.toString(16).padStart(6, "0")}  ${hex} ${text}`);
  }
  return lines.join("\n");
}

async function open(details, row) {
  if (!details.open || details.querySelector("pre")) return;
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  details.append(pre);
  if (row.bytes === null) {
    pre.textContent = "Nothing was sent.";
    return;
  }
  const answer = await fetch(`sent/${row.seq}`);
  pre.textContent = answer.ok ? dump(new Uint8Array(await answer.arrayBuffer())) || "(empty)" : "cannot be read";
}

// A line without bytes that was not refused is a note of the log about itself.
function verdict(row) {
  if (!row.allowed) return "refused";
  return row.bytes === null ? "note" : "sent";
}

function line(row) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.append(
    span("soft", new Date(1000 * row.time).toLocaleString()),
    span(row.allowed ? "verdict allowed" : "verdict refused", verdict(row)),
    span("size", row.bytes === null ? "–" : bytes(row.bytes)),
    span("what", [row.kind, row.reason].filter(Boolean).join(": ")),
  );
  details.append(summary);
  details.addEventListener("toggle", () => open(details, row));
  const item = document.createElement("li");
  item.append(details);
  return item;
}

export function showSent(table) {
  const state = JSON.stringify(table);
  if (state === shown) return; // what is open stays open
  shown = state;
  const chain = at("chain"), empty = !table.rows.length;
  chain.textContent = table.problem ? "log damaged" : empty ? "nothing" : "log intact";
  chain.className = `chip ${table.problem ? "bad" : "good"}`;
  at("totals").textContent = empty
    ? "Nothing has left this machine."
    : `${bytes(table.bytes)} in ${table.sent} message${table.sent === 1 ? "" : "s"}; ${table.refused} refused`;
  if (table.problem) at("totals").textContent += empty ? " But the log is damaged." : ", up to the damage";
  at("chain-note").textContent = table.problem
    ?? (empty ? "" : `Every line is linked to the one before it; the last hash is ${table.last_hash.slice(0, 16)}…`);
  at("chain-note").className = "soft mono";
  at("sent").replaceChildren(...[...table.rows].reverse().map(line));
}
