// In the head of every page, before it is drawn: a visitor who comes to the address without a language gets theirs.
(() => {
  const codes = [CODES], config = window.gradio_config || {};
  const key = 'magicapture-language';
  let chosen = null;
  try { chosen = localStorage.getItem(key); } catch { /* storage is forbidden, in some frames */ }
  if (config.current_page || config.auth_required || location.hash === '[STAY]') return;
  const preferred = chosen ? [chosen] : navigator.languages || [navigator.language];
  const code = preferred.map(each => each.toLowerCase().split('-')[0]).find(each => codes.includes(each));
  if (!code || code === 'en') return;
  const root = new URL(document.baseURI).pathname.replace(/\/$/, '');
  location.replace(`${root}/${code}${location.search}${location.hash}`);
})();
