// What is asked of the server on this machine: the state now and then, the stream five times a second.
import { drawSignal, drawTrack } from "./signal.js";
import { showSent } from "./sent.js";

const STREAM_MS = 200;
const STATE_MS = 5000;
const SHOWN_S = 10;
const POINTS_PER_S = 50;

const at = (id) => document.getElementById(id);
// Names are stored as one word.
const named = (gesture) => gesture.replaceAll("_", " ");
const stream = { points: [], decisions: [], nPoints: 0, nDecisions: 0, facts: null };

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function chip(id, text, kind) {
  at(id).textContent = text;
  at(id).className = kind ? `chip ${kind}` : "chip";
}

function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function showFacts(pairs) {
  at("facts").replaceChildren(...pairs.flatMap(([k, v]) => [element("dt", k), element("dd", v)]));
}

function makeBars(gestures) {
  at("bars").replaceChildren(...gestures.map((gesture) => {
    const bar = element("div", "", "bar");
    const rail = element("span", "", "rail");
    rail.append(element("span", "", "fill"));
    const name = element("span", named(gesture), "name");
    name.title = gesture;
    bar.append(name, rail, element("span", "", "value"));
    return bar;
  }));
}

function showDecision(decision, gestures, threshold) {
  const rejected = decision.gesture === null;
  at("gesture").textContent = rejected ? "not sure" : named(gestures[decision.gesture]);
  at("gesture").classList.toggle("rejected", rejected);
  const percent = (100 * decision.confidence).toFixed(1);
  at("confidence").textContent = `${percent} % confident` + (rejected ? `, below ${(100 * threshold).toFixed(1)} %` : "");
  const best = decision.probabilities.indexOf(Math.max(...decision.probabilities));
  [...at("bars").children].forEach((bar, i) => {
    const p = 100 * decision.probabilities[i];
    bar.classList.toggle("best", i === best && !rejected);
    bar.querySelector(".fill").style.width = `${p}%`;
    bar.querySelector(".value").textContent = `${p.toFixed(1)} %`;
  });
}

function showStream(news) {
  const { facts } = stream;
  stream.points = [...stream.points, ...news.points].slice(-SHOWN_S * POINTS_PER_S);
  stream.decisions = [...stream.decisions, ...news.decisions].slice(-200);
  stream.nPoints = news.n_points;
  stream.nDecisions = news.n_decisions;
  chip("status", news.status === "running" ? "live" : news.status,
    { running: "good", ended: "" }[news.status] ?? "bad");
  const last = stream.decisions.at(-1);
  if (last) showDecision(last, facts.gestures, facts.threshold);
  const latency = news.latency;
  showFacts([
    ["user", facts.user],
    ["release", facts.release.slice(0, 12)],
    ["stream", `${facts.channels} channels, ${facts.rate} Hz`],
    ["decisions", `${news.n_decisions}, ${news.rejected} not sure`],
    ["latency", latency ? `${latency.p50_ms.toFixed(2)} ms, 99 % below ${latency.p99_ms.toFixed(2)} ms` : "–"],
  ]);
  drawSignal(at("signal"), stream.points, facts.channels, SHOWN_S * POINTS_PER_S);
  drawTrack(at("track"), stream.decisions, facts.gestures.map(named), SHOWN_S);
}

async function followStream() {
  try {
    showStream(await get(`live?point=${stream.nPoints}&decision=${stream.nDecisions}`));
  } catch {
    chip("status", "the page's server has stopped", "bad");
  }
  setTimeout(followStream, STREAM_MS);
}

function modelRow(model, used) {
  const row = element("tr", "", used ? "used" : "");
  const change = model.changed == null ? "–" : `${(100 * model.changed).toFixed(1)} %`;
  const took = model.seconds == null ? "–" : `${model.seconds.toFixed(1)} s`;
  row.append(
    element("td", new Date(1000 * model.saved).toLocaleString()),
    element("td", model.method ?? "–"),
    element("td", model.decision ?? "–"),
    element("td", change, "number"),
    element("td", took, "number wide"),
    element("td", model.release.slice(0, 12), "mono wide"),
  );
  return row;
}

function modelTable(models, cell) {
  const table = document.createElement("table");
  const head = document.createElement("tr");
  for (const [name, kind] of [["saved"], ["method"], ["went"], ["changed", "number"], ["took", "number wide"],
    ["release", "wide"]]) {
    head.append(element("th", name, kind));
  }
  table.append(head, ...models.map((m) => modelRow(m, m.cell === cell)));
  const box = element("div", "", "table");
  box.append(table);
  return box;
}

function showState(state) {
  at("home").textContent = state.home;
  if (state.problem) {
    chip("vault", "vault closed", "bad");
    at("models").replaceChildren(element("p", state.problem));
    return;
  }
  chip("vault", state.encryption ? `encrypted, ${state.encryption}` : "readable by you only", state.encryption && "good");
  const parts = state.users.flatMap((user) => {
    const running = Object.entries(user.under_way).map(([cell, stages]) =>
      element("p", `Adaptation ${cell.slice(0, 12)} is under way or was interrupted; it can go on from: ${stages.join(", ")}.`));
    const models = user.models.length ? modelTable(user.models, state.live?.cell) : element("p", "No model yet.", "soft");
    return [element("h3", user.user), models, ...running];
  });
  at("models").replaceChildren(...(parts.length ? parts : [element("p", "Nothing is personalized yet.", "soft")]));
}

async function follow() {
  try {
    const state = await get("state");
    showState(state);
    showSent(await get("sent"));
    return state;
  } catch {
    chip("status", "the page's server has stopped", "bad");
    return null;
  } finally {
    setTimeout(follow, STATE_MS);
  }
}

const first = await follow();
if (first?.live) {
  stream.facts = first.live;
  at("live").hidden = false;
  makeBars(first.live.gestures);
  followStream();
} else if (first) {
  at("no-live").hidden = false;
  chip("status", "no source", "");
}
