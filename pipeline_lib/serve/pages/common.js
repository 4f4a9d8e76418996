// What comes from the index is put into a page as text nodes alone: nothing of it can become an element.
const at = id => document.getElementById(id);
let token = sessionStorage.getItem("token") || "";

function node(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.append(document.createTextNode(text));
  return made;
}

async function fetched(path, body) {
  const headers = token ? { Authorization: "Bearer " + token } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  const found = await answer.json();
  if (answer.ok) return found;
  at("locked").hidden = answer.status !== 401;
  throw new Error(found.error ? found.error.message : "answered " + answer.status);
}

function say(text, wrong) {
  at("said").textContent = text;
  at("said").className = wrong ? "wrong" : "";
}

function marked(hit) {
  const shown = node("pre", hit.kind === "text" ? "prose" : ""), signs = Array.from(hit.snippet);  // marks count characters
  let end = 0;
  for (const [from, to] of hit.marks || []) {
    shown.append(signs.slice(end, from).join(""), node("mark", "", signs.slice(from, to).join("")));
    end = to;
  }
  shown.append(signs.slice(end).join(""));
  return shown;
}

function counted(number, one, many) {
  return number.toLocaleString("en") + " " + (number === 1 ? one : many);
}

// a text of the index as a card; `first` and `last` stand at the ends of its first line
function card(hit, first, last) {
  const made = node("li", "hit"), top = node("div", "top");
  made.tabIndex = -1;
  if (first) top.append(node("span", "rank", first));
  top.append(node("h3", "", hit.name), node("span", "score", last));
  made.append(top, node("p", "place", hit.path + ":" + hit.line));
  const tags = [hit.language, hit.package, hit.licence].filter(Boolean).join(" · ");
  if (tags) made.append(node("p", "tags", tags));
  if (hit.kind === "code" && hit.doc) made.append(node("p", "doc", hit.doc));
  if (hit.snippet) {
    const line = hit.snippet.trim().split("\n")[0].trim();
    if (hit.kind === "code" && hit.signature && !line.startsWith(hit.signature.replace(/…$/, ""))) made.append(node("pre", "", hit.signature));
    made.append(marked(hit));
  } else if (hit.kind === "text") made.append(node("p", "doc", hit.doc));
  return made;
}

function action(text, does) {
  const made = node("button", "", text);
  made.type = "button";
  made.addEventListener("click", does);
  return made;
}

function link(text, path, values) {
  const made = node("a", "", text);
  made.href = path + "?" + new URLSearchParams(values);
  return made;
}

// how many rows have which cosine, with a stroke for each neighbour
function histogram(found, scores) {
  const made = (tag, values) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(values)) one.setAttribute(name, value);
    return one;
  };
  const low = found.edges[0], high = Math.max(found.edges.at(-1), ...scores), most = Math.max(...found.counts);
  const across = value => 600 * (value - low) / (high - low || 1), off = score => ((score - found.mean) / (found.deviation || 1)).toFixed(1);
  const near = scores.length ? " The nearest has " + scores[0].toFixed(3) + ", " + off(scores[0]) + " deviations above the mean; the last of the neighbours " +
    scores.at(-1).toFixed(3) + ", " + off(scores.at(-1)) + "." : "";
  const said = "Cosines of " + counted(found.rows, "row", "rows") + ", evenly spread: mean " + found.mean.toFixed(3) + ", standard deviation " +
    found.deviation.toFixed(3) + "." + near;
  const drawing = made("svg", { viewBox: "0 0 600 90", role: "img", "aria-label": said, preserveAspectRatio: "none" });
  found.counts.forEach((count, bin) => {
    const left = across(found.edges[bin]), tall = count ? Math.max(1.5, 84 * count / most) : 0;
    drawing.append(made("rect", { x: left, y: 90 - tall, width: Math.max(1, across(found.edges[bin + 1]) - left - 1), height: tall, class: "bin" }));
  });
  for (const score of scores) drawing.append(made("rect", { x: Math.min(598, across(score)), y: 0, width: 2, height: 90, class: "near" }));
  const ends = node("p", "ends");
  ends.append(node("span", "", low.toFixed(3)), node("span", "", "cosine"), node("span", "", high.toFixed(3)));
  const box = node("figure", "histogram");
  box.append(drawing, ends, node("figcaption", "", said));
  return box;
}

// arrow keys walk over the cards of columns, up from the first one to a field
function walk(key, columns, field) {
  const there = columns.filter(cards => cards.length), now = document.activeElement.closest(".hit");
  if (!there.length) return;
  const column = Math.max(0, there.findIndex(cards => cards.includes(now))), row = there[column].indexOf(now);
  const next = { ArrowDown: [column, row + 1], ArrowUp: [column, row - 1], ArrowLeft: [column - 1, row], ArrowRight: [column + 1, row] }[key];
  if (next[1] < 0) { field.focus(); return; }
  const cards = there[Math.min(Math.max(next[0], 0), there.length - 1)], target = cards[Math.min(next[1], cards.length - 1)];
  target.focus();
  target.scrollIntoView({ block: "nearest" });
}

// keys of a page with a field and cards
function keys(field, columns, clear) {
  addEventListener("keydown", event => {
    const within = document.activeElement, typing = within.matches("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key === "/" && !typing) { event.preventDefault(); field.focus(); field.select(); }
    else if (event.key === "Escape") { within === field ? clear() : field.focus(); }
    else if (event.key === "ArrowDown" && (within === field && !field.matches("textarea") || !typing)) { event.preventDefault(); walk(event.key, columns(), field); }
    else if (["ArrowUp", "ArrowLeft", "ArrowRight"].includes(event.key) && within.closest(".hit")) { event.preventDefault(); walk(event.key, columns(), field); }
    else if (event.key === "Enter" && within.matches(".hit")) { event.preventDefault(); within.querySelector(".acts > *").click(); }
  });
}

for (const one of document.querySelectorAll("nav a")) if (one.pathname === location.pathname) one.setAttribute("aria-current", "page");
at("unlock").addEventListener("click", () => {
  token = at("token").value;
  sessionStorage.setItem("token", token);
  at("token").value = "";
  at("locked").hidden = true;
  begin(true);
});
