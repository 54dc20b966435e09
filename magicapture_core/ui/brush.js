// The brush: paints the mask of a face over a photo. Nothing leaves the page before "Save".
let tint, canvas, context, mask, pen, photo, undo, tool, last, cursor;

function begin() {
  pen = mask = null; // until this photo and its mask are here: nothing of the one before is painted on, or saved
  canvas = element.querySelector('canvas');
  const box = element.querySelector('.mc-brush');
  if (!canvas || !box || !box.dataset.photo) return;
  delete box.dataset.ready;
  context = canvas.getContext('2d'); tint = box.dataset.tint;
  undo = []; tool = 'paint'; last = cursor = null;
  const opened = photo = new Image(), painted = new Image();
  photo.onload = () => {
    if (photo !== opened) return; // another one was opened meanwhile
    canvas.width = photo.naturalWidth; canvas.height = photo.naturalHeight;
    fit();
    painted.onload = () => {
      if (photo !== opened) return;
      mask = document.createElement('canvas');
      mask.width = canvas.width; mask.height = canvas.height;
      pen = mask.getContext('2d', {willReadFrequently: true});
      pen.drawImage(painted, 0, 0, mask.width, mask.height); draw(); box.dataset.ready = 'yes';
      box.scrollIntoView({block: box.clientHeight < window.innerHeight ? 'center' : 'start'});
      element.querySelector('[data-tool=paint]').focus({preventScroll: true});
    };
    painted.src = box.dataset.mask;
  };
  photo.src = box.dataset.photo;
  press('paint');
}

function fit() { // so that the tools stay in sight beside it, at 200 %, too
  const box = element.querySelector('.mc-brush');
  if (!box || !canvas || !canvas.isConnected) return;
  const room = box.clientWidth - 34, high = Math.min(560, Math.max(160, window.innerHeight - 220));
  const scale = Math.min(room / canvas.width, high / canvas.height);
  canvas.style.width = `${Math.round(canvas.width * scale)}px`;
}
window.addEventListener('resize', fit);

function draw() {
  context.globalAlpha = 1;
  context.drawImage(photo, 0, 0);
  context.globalAlpha = 0.5;
  context.drawImage(mask, 0, 0);
  context.globalAlpha = 1;
  if (cursor) {
    context.lineWidth = Math.max(1, canvas.width / 400); context.strokeStyle = 'white';
    context.beginPath(); context.arc(cursor.x, cursor.y, size() / 2, 0, 7); context.stroke();
    context.lineWidth /= 2; context.strokeStyle = 'black'; context.stroke();
  }
}

function size() { return Number(element.querySelector('input[type=range]').value) / 100 * canvas.width; }

function place(event) {
  const box = canvas.getBoundingClientRect();
  return {x: (event.clientX - box.left) / box.width * canvas.width, y: (event.clientY - box.top) / box.height * canvas.height};
}

function remember() {
  undo.push(pen.getImageData(0, 0, mask.width, mask.height));
  if (undo.length > 20) undo.shift();
}

function stroke(from, to) {
  pen.globalCompositeOperation = tool === 'erase' ? 'destination-out' : 'source-over';
  pen.strokeStyle = `rgb(${tint})`; pen.lineCap = pen.lineJoin = 'round'; pen.lineWidth = size();
  pen.beginPath(); pen.moveTo(from.x, from.y); pen.lineTo(to.x + 0.01, to.y); pen.stroke();
}

function press(name) {
  if (name === 'undo') { if (undo.length) { pen.putImageData(undo.pop(), 0, 0); draw(); } return; }
  tool = name;
  element.querySelectorAll('[data-tool]').forEach(button => {
    if (button.dataset.tool !== 'undo') button.setAttribute('aria-pressed', String(button.dataset.tool === tool));
  });
}

element.addEventListener('pointerdown', event => {
  if (event.target !== canvas || !pen) return;
  event.preventDefault(); canvas.setPointerCapture(event.pointerId);
  remember(); last = cursor = place(event); stroke(last, last); draw();
});
element.addEventListener('pointermove', event => {
  if (event.target !== canvas || !pen) return;
  cursor = place(event);
  if (last) { stroke(last, cursor); last = cursor; }
  draw();
});
for (const name of ['pointerup', 'pointercancel']) element.addEventListener(name, () => { last = null; });
element.addEventListener('keydown', event => {
  if (event.target !== canvas || !pen) return;
  const step = Math.max(2, size() / 4), moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  cursor = cursor || {x: canvas.width / 2, y: canvas.height / 2};
  if (event.key in moves) {
    cursor = {x: cursor.x + step * moves[event.key][0], y: cursor.y + step * moves[event.key][1]};
  } else if (event.key === ' ') { remember(); stroke(cursor, cursor); } else return;
  event.preventDefault(); draw();
});
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button || !(pen || button.dataset.act === 'cancel')) return;
  if (button.dataset.tool) press(button.dataset.tool);
  else if (button.dataset.act) {
    trigger('submit', {act: button.dataset.act, mask: button.dataset.act === 'save' ? mask.toDataURL('image/png') : ''});
  }
});
watch('value', begin);
begin();
