"use strict";

const at = (id) => document.getElementById(id);
let file = null; // the picture that was chosen, dropped or pasted
let shown = []; // addresses of blobs that are on show, to be freed with the next result

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

function bytes(count) {
  return count < 1e6 ? `${Math.ceil(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

function choose(picture) {
  if (!picture) return;
  file = picture;
  at("file").required = false;
  at("drop-title").textContent = picture.name || "pasted picture";
  at("drop-hint").textContent = bytes(picture.size);
  at("run").disabled = false;
  say("");
}

async function describe() {
  const model = await (await fetch("v1/model")).json();
  const scale = model.scale === null ? "any scale" : `${model.scale} times`;
  const most = `pictures up to ${model.limits.pixels / 1e6} megapixels`;
  at("model").textContent = `${model.family}, ${scale}, ${model.backend}; ${most}`;
  if (model.scale !== null) {
    at("scale").value = model.scale;
    at("scale").disabled = true;
  }
  at("temperature-field").hidden = at("seed-field").hidden = !model.sampled;
  at("temperature").disabled = at("seed").disabled = !model.sampled;
}

function query() {
  const parameters = new URLSearchParams({ format: at("format").value });
  for (const name of ["scale", "temperature", "seed"]) {
    if (!at(name).disabled) parameters.set(name, at(name).value);
  }
  return parameters;
}

async function upscale() {
  at("run").disabled = true;
  say("Working …");
  const began = performance.now();
  try {
    const answer = await fetch(`upscale?${query()}`, {
      method: "POST",
      body: file,
      headers: { "Content-Type": "application/octet-stream" },
    });
    if (!answer.ok) {
      say((await answer.json()).error, true);
      return;
    }
    await show(await answer.blob(), (performance.now() - began) / 1000);
    const warning = answer.headers.get("Flowsr-Warning");
    if (warning) say(`Done, but ${warning}`, true);
  } catch (error) {
    say(`No answer from the server: ${error.message}`, true);
  } finally {
    at("run").disabled = false;
  }
}

async function show(blob, seconds) {
  shown.forEach((address) => URL.revokeObjectURL(address));
  shown = [URL.createObjectURL(file), URL.createObjectURL(blob)];
  at("before").src = shown[0];
  at("after").src = shown[1];
  at("result").hidden = false;
  await Promise.all([at("before").decode(), at("after").decode()]);
  const { naturalWidth: width, naturalHeight: height } = at("after");
  const from = `${at("before").naturalWidth}×${at("before").naturalHeight}`;
  at("facts").textContent =
    `${from} to ${width}×${height} in ${seconds.toFixed(2)} s, ${bytes(blob.size)}`;
  const stem = (file.name || "picture").replace(/\.[^.]*$/, "");
  at("download").href = shown[1];
  at("download").download = `${stem}-${width}x${height}.${at("format").value}`;
  cut(50);
  at("slider").focus({ preventScroll: true });
  say("Done. Move the slider, also with the arrow keys.");
}

function cut(percent) {
  at("slider").value = percent;
  at("pictures").style.setProperty("--cut", `${percent}%`);
}

at("file").addEventListener("change", () => choose(at("file").files[0]));
at("slider").addEventListener("input", () => cut(at("slider").value));
at("actual").addEventListener("change", () => {
  at("pictures").classList.toggle("actual", at("actual").checked);
});
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  upscale();
});
for (const name of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
describe().catch((error) => say(`No answer from the server: ${error.message}`, true));
