// Attached once, to the page's header: what is under way, the keyboard's place, and what gradio's own parts leave unsaid.

// --- The language: the document says which it is, and the list in the head remembers what is chosen.
const head = document.querySelector('.mc-head'), words = JSON.parse(head.dataset.words);
document.documentElement.lang = head.dataset.lang;
const fill = (sentence, values) => sentence.replace(/{(\w+)}/g, (_, key) => values[key]);
for (const name of ['drop', 'kinds']) document.documentElement.style.setProperty(`--mc-say-${name}`, JSON.stringify(words[name]));
for (const link of head.querySelectorAll('[data-language]')) {
  link.addEventListener('click', event => {
    if (link.getAttribute('aria-current')) { event.preventDefault(); return; }
    try { localStorage.setItem('magicapture-language', link.dataset.language); } catch { /* forbidden, in some frames */ }
    const [path, hash] = link.getAttribute('href').split('#');
    link.href = path + location.search + (hash ? `#${hash}` : '');
  });
}

// --- What is under way: the pressed button rests, and a line at the foot of the window says what is done.
const LATE = 250; // milliseconds after which something is worth a line
const under = new Map();
let pressed = null;

function line(id, quiet) {
  const made = document.createElement('div');
  made.id = id; made.setAttribute('role', 'status');
  if (quiet) made.className = 'mc-unseen';
  document.body.append(made);
  return made;
}
const doing = document.getElementById('mc-doing') || line('mc-doing', false);
const spoken = document.getElementById('mc-spoken') || line('mc-spoken', true);

function tell() {
  const late = [...under.values()].filter(each => each.late).pop();
  const words = late ? late.words : '';
  if (doing.textContent !== words) { doing.textContent = words; put(); }
}

// The line stands at the foot of the window, or as near to it as it covers nothing that can be pressed.
function put() {
  if (!doing.textContent) return;
  const {offsetWidth: wide, offsetHeight: tall} = doing, left = (innerWidth - wide) / 2;
  const boxes = [...document.querySelectorAll(`label, ${FOCUSABLE}`)].filter(shown).map(each => each.getBoundingClientRect());
  const covered = low => boxes.filter(box => box.right > left && box.left < left + wide
    && box.bottom > innerHeight - low - tall - 4 && box.top < innerHeight - low + 4).length;
  let best = 18, least = covered(best);
  for (let low = best + 10; least && low + tall < innerHeight; low += 10) {
    const count = covered(low);
    if (count < least) { best = low; least = count; }
  }
  if (doing.style.bottom !== `${best}px`) doing.style.bottom = `${best}px`;
}
for (const kind of ['scroll', 'resize']) window.addEventListener(kind, put, {passive: true});

function begin(number, words) {
  const button = pressed && pressed.isConnected ? pressed : null;
  pressed = null;
  if (button) { button.setAttribute('aria-disabled', 'true'); button.classList.add('mc-busy'); }
  const each = {button, words, late: false, place: button && !button.dataset.act ? {above: chain(button)} : null};
  each.timer = setTimeout(() => { each.late = true; tell(); }, LATE);
  under.set(number, each);
}

function end(number) {
  const each = under.get(number);
  if (!each) return;
  clearTimeout(each.timer); under.delete(number);
  if (each.button) { each.button.removeAttribute('aria-disabled'); each.button.classList.remove('mc-busy'); }
  tell();
  look(); // the keyboard may have waited for the answer
  if (each.place) reveal(() => shown(each.button) ? null : regionOf(each.place));
}
const motion = () => matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth';
window.magicapture = {begin, end, motion, touched: 0, placed: null}; // placed: what settle() gave the keyboard to
let moved = 0;
for (const kind of ['pointerdown', 'keydown']) document.addEventListener(kind, event => { window.magicapture.touched += 1; if (event.key !== 'Enter') moved += 1; }, true);
for (const kind of ['wheel', 'touchmove']) document.addEventListener(kind, () => { moved += 1; }, {capture: true, passive: true});

// How far it is, and the first of what it makes, in the window; again as pictures arrive, unless somebody moves the page.
function reveal(find) {
  const then = moved;
  for (const wait of [150, 700, 1600]) setTimeout(() => {
    const region = moved === then ? find() : null;
    if (!says(region) || document.activeElement.matches('textarea, input:is([type=text], [type=number])')) return;
    const top = region.getBoundingClientRect().top - 12, bottom = (aim(region) || region).getBoundingClientRect().bottom + 12;
    if (top < 0 || bottom > innerHeight) scrollBy({top: Math.max(top, bottom - innerHeight), behavior: motion()});
  }, wait);
}

document.addEventListener('click', event => {
  const button = event.target.closest('button, [data-act]');
  if (button && button.classList.contains('mc-busy')) { event.preventDefault(); event.stopImmediatePropagation(); }
  else pressed = button;
}, true);
document.addEventListener('input', () => { pressed = null; }, true);

// --- The keyboard's place: where what had it goes away, what comes next has it.
const FOCUSABLE = 'button, [data-act], a[href], input, select, textarea, summary, [tabindex="0"]';
let kept = null, back = null, makeshift = null;

function chain(element) {
  const found = [];
  for (let each = element.parentElement; each; each = each.parentElement) found.push(each);
  return found;
}

const shown = element => element.isConnected && element.checkVisibility({visibilityProperty: true}) && !element.disabled;

document.addEventListener('focusin', event => {
  const element = event.target, above = chain(element);
  const box = element.closest('[data-opened]');
  if (box && kept && !kept.above.includes(box)) back = {...kept, box};
  kept = {element, above, act: element.dataset.act, id: element.dataset.id};
});
document.addEventListener('pointerdown', event => { if (!event.target.closest(FOCUSABLE)) kept = null; });

function alike(place) {
  if (shown(place.element)) return place.element;
  if (!place.act) return null;
  const block = place.above.find(each => each.isConnected && each.id) || document.body;
  const same = [...block.querySelectorAll('[data-act]')].filter(each => each.dataset.id === place.id && shown(each));
  return same.find(each => each.dataset.act === place.act) || same.find(each => !each.matches(UNDOES)) || null;
}

// A second press of the same key must not stop or delete what the first one began.
const UNDOES = '.mc-halts, .stop, [data-act^="remove"], [data-act^="drop"], [data-act="undo"]';

// The region (cards.live) that says how far it is what a control began; only jobs have one, so only steps with jobs.
function regionOf(place) {
  const near = place.above.find(each => each.isConnected && each.closest('.tabitem') && each.querySelector('.mc-live'));
  return near?.querySelector('.mc-live');
}
const says = region => region && shown(region) && region.textContent.trim();
const aim = region => region.dataset.then && [...document.querySelectorAll(region.dataset.then)].find(shown);

// What can have the keyboard after a place: the first of what is left around it, or what follows that.
function next(place) {
  if (place.element.matches('.mc-live')) { // it is over: what it made, or the beginning of the step
    const title = place.element.closest('.tabitem')?.querySelector('.mc-heading h2');
    if (title) title.tabIndex = -1;
    return {inside: aim(place.element) || title};
  }
  const from = place.above.find(each => each.isConnected) || document.body;
  const all = [...document.querySelectorAll(FOCUSABLE)].filter(each => each.tabIndex >= 0 && shown(each) && !each.matches(UNDOES));
  const inside = all.find(each => from.contains(each));
  const after = all.find(each => from.compareDocumentPosition(each) & Node.DOCUMENT_POSITION_FOLLOWING);
  return {inside, after};
}

// gradio takes away what an answer hides before it draws what comes instead: in between, only what follows is there, and has
// the keyboard as a makeshift. What comes instead still gets it, however late, unless somebody has moved on.
function settle() {
  const active = document.activeElement, {touched} = window.magicapture;
  const lost = active === document.body || !shown(active); // what is hidden keeps it until the browser draws, maybe later than this
  if (makeshift && (makeshift.touched !== touched || !(lost || active === makeshift.found))) makeshift = null;
  const place = makeshift ? makeshift.place : kept;
  if (!place || (!makeshift && (!lost || shown(place.element)))) return;
  const opener = back && place.above.includes(back.box) ? alike(back) : null;
  const region = place.act ? null : regionOf(place);
  if (region && !says(region) && under.size) return; // it may come with the answer
  const {inside, after} = next(place);
  const sure = opener || alike(place) || (says(region) ? region : inside);
  const found = sure || (lost ? after : null);
  if (!found) return;
  makeshift = sure ? null : {place, found, touched};
  window.magicapture.placed = found; found.focus({preventScroll: true});
}

// --- What gradio's own parts leave unsaid.
const said = new Map();

function name() {
  for (const button of document.querySelectorAll('button.label-wrap')) {
    const open = String(button.classList.contains('open'));
    if (button.getAttribute('aria-expanded') !== open) button.setAttribute('aria-expanded', open);
  }
  for (const button of document.querySelectorAll('button:is(.upload-container, :has(.upload-container))')) {
    const label = button.closest('.block')?.querySelector('label')?.textContent.trim(), seen = button.querySelector('.wrap');
    if (!label || button.getAttribute('aria-label') === label) continue;
    button.setAttribute('aria-label', label); // what is seen on it (style.css) is its name
    if (seen) seen.dataset.words = label;
    if (!button.matches('.upload-container')) { button.title = label; button.tabIndex = -1; } // around another button
  }
  for (const each of document.querySelectorAll('[data-say]')) {
    const block = each.closest('[id]').id, words = each.dataset.say;
    if (said.get(block) !== words && shown(each)) { said.set(block, words); spoken.textContent = words; }
  }
}

// --- The window's title and sign say how far something is, for whoever looks at another window; see [data-progress].
const plain = document.title;
const usual = {rel: 'icon', href: `${window.gradio_config?.root || ''}/favicon.ico`}; // gradio's, which no link names
const icon = document.querySelector('link[rel~="icon"]') || document.head.appendChild(Object.assign(document.createElement('link'), usual));
const plainIcon = icon.getAttribute('href');
let before = {}, drawn = '';

function badge(share, done) {
  const key = `${Math.round(share * 20)} ${done}`;
  if (key === drawn) return;
  drawn = key;
  const canvas = Object.assign(document.createElement('canvas'), {width: 64, height: 64}), pen = canvas.getContext('2d');
  pen.lineWidth = 10; pen.strokeStyle = '#c9c4ba';
  pen.beginPath(); pen.arc(32, 32, 25, 0, 7); pen.stroke();
  pen.strokeStyle = pen.fillStyle = '#0b6e4f';
  pen.beginPath(); pen.arc(32, 32, 25, -Math.PI / 2, -Math.PI / 2 + 2 * Math.PI * (done ? 1 : share)); pen.stroke();
  if (done) { pen.beginPath(); pen.arc(32, 32, 16, 0, 7); pen.fill(); }
  icon.setAttribute('href', canvas.toDataURL());
}

const away = () => document.hidden || !document.hasFocus(); // looking at another window beside this one, too

function notify(body) {
  spoken.textContent = body; // for those who listen to the page
  if (!away() || window.Notification?.permission !== 'granted') return;
  try { new Notification('MagiCapture', {body}); } catch { /* a browser that wants a service worker for it */ }
}

function announce() {
  const all = [...document.querySelectorAll('[data-progress]')];
  const running = all.find(each => each.dataset.state === 'running');
  for (const each of all) {
    const {about, state} = each.dataset, was = before[about];
    before[about] = state;
    if (was !== 'running' || state === 'running') continue;
    ready = fill(state === 'failed' ? words.failed : words.done, {about});
    notify(ready);
    const region = each.closest('.mc-live');
    if (region?.dataset.then) reveal(() => region);
  }
  for (const about of Object.keys(before)) if (!all.some(each => each.dataset.about === about)) {
    if (before[about] === 'running') ready = fill(words.done, {about});
    delete before[about];
  }
  if (!away() && !running) ready = '';
  if (running) { document.title = `${fill(words.share, {percent: running.dataset.progress, about: running.dataset.about})} · ${plain}`; badge(running.dataset.progress / 100, false); }
  else if (ready) { document.title = `${ready} · ${plain}`; badge(1, true); }
  else if (drawn) { document.title = plain; drawn = ''; icon.setAttribute('href', plainIcon); }
}
let ready = '';
for (const [where, kind] of [[document, 'visibilitychange'], [window, 'focus']]) where.addEventListener(kind, () => setTimeout(announce, 1500));

function offer() {
  const can = window.Notification?.permission === 'default' && !/Android/.test(navigator.userAgent); // there it cannot show any
  for (const each of document.querySelectorAll('[data-notify]')) if (each.hidden === can) each.hidden = !can;
}
document.addEventListener('click', event => {
  if (event.target.closest('[data-notify]')) Notification.requestPermission().then(offer);
});

let waiting = false;
function look() {
  if (waiting) return;
  waiting = true;
  setTimeout(() => { waiting = false; name(); settle(); announce(); offer(); put(); }, 60);
}
new MutationObserver(look).observe(document.body, {
  childList: true, subtree: true, attributes: true, attributeFilter: ['class', 'style', 'disabled', 'hidden', 'data-say', 'data-progress', 'data-state'],
});
look();
