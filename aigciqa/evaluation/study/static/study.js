"use strict";

const byId = (id) => document.getElementById(id);
const page = document.body.dataset.page;

/** A name for one press of a button, by which the server knows it again when it is sent twice. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function post(path, body) {
  const token = document.querySelector("meta[name='token']")?.content ?? "";
  return fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Token": token },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(15000),
  });
}

function say(text) {
  byId("live").textContent = text;
}

function complain(text) {
  const problem = byId("problem");
  problem.textContent = text;
  problem.hidden = text === "";
}

async function copy(text, input) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
    return true;
  } catch {
    // No clipboard on a page without https: the text is selected to be copied by hand.
    input?.select();
    return false;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-text]");
  if (button === null) return;
  const input = button.dataset.copy ? byId(button.dataset.copy) : null;
  const text = input?.value ?? button.dataset.copyText;
  const before = button.textContent;
  if (await copy(text, input)) {
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = before), 1500);
  } else if (input === null) {
    window.prompt("Copy this link", text);
  }
});

/* ---- The page by which anybody becomes a rater ---- */

function startJoin() {
  byId("join").addEventListener("click", async () => {
    byId("join").disabled = true;
    try {
      const answer = await post(location.pathname, {});
      const body = await answer.json();
      if (answer.ok) {
        location.replace(body.location);
        return;
      }
      byId("join-problem").textContent = body.error;
    } catch {
      byId("join-problem").textContent = "No connection: try again.";
    }
    byId("join-problem").hidden = false;
    byId("join").disabled = false;
  });
}

/* ---- The study's page ---- */

function startAdmin() {
  let acting = false; // a double click is one
  async function act(path, body) {
    if (acting) return;
    acting = true;
    try {
      const answer = await post(path, body);
      if (answer.ok) {
        location.reload();
        return;
      }
      complain((await answer.json()).error);
    } catch {
      complain("No connection to the server: is it running?");
    }
    acting = false;
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-post]");
    if (button === null || (button.dataset.ask && !window.confirm(button.dataset.ask))) return;
    const { on, rater } = button.dataset;
    act(button.dataset.post, rater ? { rater: Number(rater) } : { on: on === "true" });
  });
  const invite = () => act("/admin/invite", { label: byId("label").value });
  byId("invite").addEventListener("click", invite);
  byId("label").addEventListener("keydown", (event) => event.key === "Enter" && invite());
  for (const select of document.querySelectorAll("#sorting select")) {
    select.addEventListener("change", () => {
      location.search = new URLSearchParams({ order: byId("order").value, question: byId("by").value });
    });
  }
}

/* ---- The rater's page ---- */

/** Presses sooner than this after a picture came are the end of a double click. */
const DEAF_MS = 250;
const KEPT = `aigciqa-unsent-${document.querySelector("meta[name='token']")?.content}`;

function startRating() {
  const { method, size } = document.body.dataset;
  const choices = [...document.querySelectorAll(".choice")];
  const slider = byId("slider");
  let step = null; // what the server said last
  let busy = true; // while an answer is on its way, or a picture
  let shownAt = 0;
  let scale = null; // screen pixels per image pixel
  let whole = false; // all pixels of a picture that does not fit
  let noticed = null; // the notice that was read
  const ahead = new Map(); // pictures that are loaded ahead

  function setBusy(value) {
    busy = value;
    for (const choice of choices) choice.disabled = value;
    if (slider) byId("save").disabled = value || slider.classList.contains("unset");
    byId("skip").disabled = value || step?.status !== "rate";
    byId("undo").disabled = value || !step?.can_undo;
  }

  /** Sends until there is an answer: what was pressed is not lost with the connection. */
  async function send(path, body) {
    sessionStorage.setItem(KEPT, JSON.stringify({ path, body }));
    for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
      try {
        const answer = await post(path, body);
        if (answer.status < 500) {
          const told = await answer.json(); // what is no JSON is no answer of the study's server
          sessionStorage.removeItem(KEPT);
          complain("");
          if (told.status === undefined) complain(told.error);
          return told.status === undefined ? null : told;
        }
      } catch {
        // no connection, or no answer in time
      }
      complain("No connection. Your answer is not saved yet; it is sent again until it is. Please keep this page open.");
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  async function load() {
    for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
      try {
        const answer = await fetch("/step", { signal: AbortSignal.timeout(15000) });
        if (answer.status < 500) {
          const told = await answer.json();
          complain(told.error ?? "");
          return told.error ? null : told;
        }
      } catch {
        // no connection
      }
      complain("No connection: trying again.");
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  async function act(path, body) {
    if (busy) return;
    setBusy(true);
    const told = await send(path, { key: newKey(), ...body });
    if (told !== null) {
      if (told.recorded === false && told.status === "rate") say("This was answered already: here is what comes next.");
      await show(told);
    }
  }

  function vote(score, button) {
    if (busy || choices[0].disabled || performance.now() - shownAt < DEAF_MS) return;
    button?.classList.add("pressed");
    const seconds = (performance.now() - shownAt) / 1000;
    act("/vote", { slot: step.slot, question: step.question, score, seconds, scale });
  }

  function skip(reason) {
    byId("skip-dialog").close();
    if (!busy) act("/skip", { slot: step.slot, reason });
  }

  async function show(told) {
    const before = step;
    step = told;
    byId("skip-dialog").close();
    for (const choice of choices) choice.classList.remove("pressed");
    if (slider) {
      slider.classList.add("unset");
      slider.value = 50;
    }
    showProgress();
    const notice = step.status === "rate" ? step.notice && `${step.notice}-${step.slot}` : step.status;
    if (notice && noticed !== notice) {
      showNotice(notice);
      preload([...step.pictures, ...step.upcoming]);
      return;
    }
    byId("notice").hidden = true;
    byId("answers").hidden = false;
    byId("question").textContent = step.text;
    byId("hint").textContent = step.hint;
    byId("hint").hidden = !step.hint;
    showPrompt();
    if (before?.slot !== step.slot || byId("pictures").childElementCount === 0) await showPictures();
    byId("stage").hidden = false;
    fit();
    shownAt = performance.now();
    setBusy(false);
    say(`${byId("progress-text").textContent}. ${step.text}`);
    (slider ?? byId("question")).focus({ preventScroll: true });
    preload(step.upcoming);
  }

  function showProgress() {
    const { status, finished, total, training } = step;
    const number = Math.min(finished + 1, total);
    byId("progress").max = Math.max(1, total);
    byId("progress").value = finished;
    const noun = method === "pairs" ? "Pair" : "Picture";
    byId("progress-text").textContent =
      status === "rate" ? `${training ? "Training" : noun} ${number} of ${total}` : `${finished} done`;
  }

  function showNotice(notice) {
    const { status } = step;
    const texts = {
      begin: ["Before you begin", step.training ? "The first pictures are for training. Their votes don't count." : ""],
      counts: ["The training is over", "From now on, your answers count."],
      break: ["Time for a break", `You have done ${step.finished} of ${step.total}. Rest your eyes for a moment.`],
      done: ["All done. Thank you!", "There is nothing left for you to rate. You may close this page."],
      closed: ["This study is closed", "No more answers are taken. All that you gave are kept. Thank you!"],
    };
    const kind = status === "rate" ? step.notice : status;
    [byId("notice-title").textContent, byId("notice-text").textContent] = texts[kind];
    byId("notice-text").hidden = byId("notice-text").textContent === "";
    byId("notice-instructions").hidden = kind !== "begin";
    byId("go").hidden = status !== "rate";
    if (byId("notice-next")) byId("notice-next").hidden = status === "rate";
    byId("go").textContent = kind === "begin" ? "Begin" : "Continue";
    byId("go").onclick = () => {
      noticed = notice;
      show(step);
    };
    byId("notice").hidden = false;
    byId("answers").hidden = true;
    byId("stage").hidden = true;
    byId("size-note").hidden = true;
    byId("pictures").replaceChildren();
    setBusy(false);
    byId("skip").disabled = true; // answers are out of sight; undo works
    (status === "rate" ? byId("go") : byId("notice-title")).focus();
  }

  function showPrompt() {
    const { reference, prompt } = step;
    byId("prompt").hidden = reference === null && prompt === null;
    byId("prompt-figure").hidden = reference === null;
    if (reference !== null) byId("prompt-image").src = reference;
    byId("prompt-text").hidden = prompt === null;
    byId("prompt-text").textContent = prompt ?? "";
  }

  async function showPictures() {
    whole = false;
    const images = step.pictures.map((url, index) => {
      const image = new Image();
      image.alt = step.pictures.length > 1 ? ["Left picture", "Right picture"][index] : "Picture to rate";
      image.src = url;
      return image;
    });
    for (;;) {
      const results = await Promise.allSettled(images.map((image) => image.decode()));
      if (results.every((each) => each.status === "fulfilled")) break;
      complain("This picture could not be loaded. Trying again; or skip it.");
      const slot = step.slot;
      setBusy(false);
      for (const choice of choices) choice.disabled = true;
      await new Promise((resolve) => setTimeout(resolve, 2000));
      if (step.slot !== slot) return new Promise(() => {}); // it was skipped: another call goes on
      for (const image of images) image.src = image.src;
    }
    complain("");
    byId("pictures").replaceChildren(
      ...images.map((image) => {
        const frame = document.createElement("div");
        frame.className = "frame";
        frame.append(image);
        return frame;
      }),
    );
  }

  /** One image pixel on one pixel of the screen, or a stated size; less where it does not fit, and the page says so. */
  function fit() {
    const images = [...document.querySelectorAll("#pictures img")];
    if (images.length === 0) return;
    const stage = byId("stage");
    const narrow = matchMedia("(max-width: 48rem)").matches;
    const main = document.querySelector("main");
    const prompt = byId("prompt");
    const around = document.querySelector(".rate > header").offsetHeight + byId("answers").offsetHeight;
    const gap = parseFloat(getComputedStyle(byId("pictures")).columnGap) || 0;
    let width = main.clientWidth - 16;
    let height = Math.max(window.innerHeight - around - 48, 200);
    if (!prompt.hidden && narrow) height = Math.max(height - prompt.offsetHeight - 12, 160);
    if (!prompt.hidden && !narrow) width -= Math.min(384, width * 0.35) + 24;
    width = (width - gap * (images.length - 1)) / images.length;
    const pixels = images.map((image) =>
      size ? Number(size) / Math.max(image.naturalWidth, image.naturalHeight) : 1 / devicePixelRatio,
    );
    const rooms = images.map((image, index) =>
      Math.min(width / (image.naturalWidth * pixels[index]), height / (image.naturalHeight * pixels[index])),
    );
    const room = whole ? 1 : Math.min(1, ...rooms); // the same for both of a pair
    images.forEach((image, index) => {
      image.style.width = `${image.naturalWidth * pixels[index] * room}px`;
      image.style.height = `${image.naturalHeight * pixels[index] * room}px`;
      const frame = image.parentElement;
      frame.classList.toggle("whole", whole);
      frame.style.maxWidth = `${width}px`;
      frame.style.maxHeight = `${height}px`;
    });
    scale = Math.min(...pixels) * room * devicePixelRatio;
    prompt.style.width = prompt.hidden || narrow ? "" : `${Math.min(384, stage.parentElement.clientWidth * 0.35)}px`;
    const note = byId("size-note");
    note.hidden = room > 0.995 && !whole;
    note.textContent = whole ? "Scroll to see all of it. " : `Shown at ${Math.round(100 * room)}% to fit. `;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = whole ? "Fit to the screen" : "Show all pixels";
    button.onclick = zoom;
    note.append(button);
  }

  function zoom() {
    if (!whole && byId("size-note").hidden) return;
    whole = !whole;
    fit();
  }

  function preload(urls) {
    for (const url of [...ahead.keys()]) if (!urls.includes(url)) ahead.delete(url);
    for (const url of urls) {
      if (ahead.has(url)) continue;
      const image = new Image();
      image.src = url;
      image.decode().catch(() => ahead.delete(url));
      ahead.set(url, image);
    }
  }

  for (const choice of choices) {
    if (choice.id === "save") {
      choice.addEventListener("click", () => save());
      continue;
    }
    choice.addEventListener("click", (event) => {
      if (event.detail > 1) return; // the second click of a double click
      const { score } = choice.dataset;
      vote(method === "grades" ? Number(score) : score, choice);
    });
  }

  function save() {
    if (!slider.classList.contains("unset")) vote(Number(slider.value), byId("save"));
  }

  slider?.addEventListener("input", () => {
    slider.classList.remove("unset");
    byId("save").disabled = busy;
  });
  slider?.addEventListener("pointerdown", () => slider.dispatchEvent(new Event("input")));

  byId("undo").addEventListener("click", (event) => event.detail > 1 || undo());
  function undo() {
    if (step?.can_undo && !busy) act("/undo", {});
  }

  byId("skip").addEventListener("click", openSkip);
  function openSkip() {
    if (busy || step?.status !== "rate" || byId("skip").disabled) return;
    byId("reason").value = "";
    byId("skip-dialog").showModal();
  }
  for (const button of document.querySelectorAll("[data-reason]")) {
    button.addEventListener("click", () => skip(button.dataset.reason));
  }
  byId("skip-other").addEventListener("click", () => skip(byId("reason").value.trim() || "no reason"));
  byId("reason").addEventListener("keydown", (event) => event.key === "Enter" && skip(byId("reason").value.trim() || "no reason"));
  byId("help").addEventListener("click", () => byId("help-dialog").showModal());
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  byId("link").value = location.origin + byId("link").dataset.path;

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input[type='text']");
    if (event.repeat && event.target !== slider) event.key.startsWith("Arrow") || event.preventDefault();
    if (event.repeat || typing || event.altKey || document.querySelector("dialog[open]")) return;
    const { key } = event;
    const isUndo = key === "Backspace" || ((event.ctrlKey || event.metaKey) && key.toLowerCase() === "z");
    if (isUndo) {
      event.preventDefault();
      undo();
      return;
    }
    if (event.ctrlKey || event.metaKey) return;
    if (key.toLowerCase() === "u") undo();
    else if (key.toLowerCase() === "s") openSkip();
    else if (key.toLowerCase() === "z") zoom();
    else if (!byId("answers").hidden) answerByKey(event);
  });

  function answerByKey(event) {
    // Where digits need Shift, as on French keyboards, the key without it is the digit, too.
    const key = (!event.shiftKey && /^Digit(\d)$/.exec(event.code)?.[1]) || event.key;
    if (method === "grades") {
      const choice = choices.find((each) => each.dataset.score === key);
      if (choice) vote(Number(key), choice);
      else if (key === "ArrowLeft" || key === "ArrowRight") {
        const index = choices.indexOf(document.activeElement);
        const next = index < 0 ? 2 : index + (key === "ArrowRight" ? 1 : -1);
        choices[Math.min(choices.length - 1, Math.max(0, next))].focus();
        event.preventDefault();
      }
    } else if (method === "slider") {
      if (key === "Enter" && event.target !== byId("save") && !event.target.closest("header")) save();
      else if (key.startsWith("Arrow") && event.target !== slider) slider.focus();
    } else {
      const side = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "same" }[key];
      if (side) {
        event.preventDefault();
        vote(side, choices.find((each) => each.dataset.score === side));
      }
    }
  }

  window.addEventListener("resize", () => busy || fit());
  window.addEventListener("pageshow", async (event) => {
    if (event.persisted) begin(); // the page comes back by the back button as it was left
  });

  async function begin() {
    busy = true;
    step = null;
    byId("pictures").replaceChildren();
    const kept = sessionStorage.getItem(KEPT);
    let told = null;
    if (kept !== null) {
      const { path, body } = JSON.parse(kept); // of before a reload
      told = await send(path, body);
    }
    told ??= await load();
    if (told !== null) await show(told);
  }
  begin();
}

({ join: startJoin, admin: startAdmin, rate: startRating })[page]?.();
