"use strict";

// Draws openapi.json. Everything is put in as text, never as HTML.

let spec;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function resolve(schema) {
  const name = schema?.$ref?.split("/").pop();
  return name ? { name, ...spec.components.schemas[name] } : (schema ?? {});
}

/** What a schema asks for, in a few words: `integer, 1 to 1000`. */
function typeText(schema) {
  if (schema.$ref) return resolve(schema).name;
  if (schema.anyOf) return schema.anyOf.map(typeText).join(" or ");
  if (schema.enum) return schema.enum.map((word) => JSON.stringify(word)).join(" | ");
  if (schema.type === "array") return `[${typeText(schema.items ?? {})}]`;
  if (schema.type === "object" && schema.additionalProperties instanceof Object) {
    return `{name: ${typeText(schema.additionalProperties)}}`;
  }
  const facts = [schema.format ?? schema.type ?? "any"];
  if (schema.pattern) facts.push(schema.pattern);
  const [least, most] = [schema.minimum, schema.maximum];
  if (least !== undefined && most !== undefined) facts.push(`${least} to ${most}`);
  else if (least !== undefined) facts.push(`at least ${least}`);
  if (schema.default !== undefined) facts.push(`default ${JSON.stringify(schema.default)}`);
  return facts.join(", ");
}

/** The named shapes within a schema. */
function shapesIn(schema, found = new Set()) {
  if (schema?.$ref) {
    const name = schema.$ref.split("/").pop();
    if (!found.has(name)) {
      found.add(name);
      shapesIn(spec.components.schemas[name], found);
    }
  } else if (schema instanceof Object) {
    for (const part of Object.values(schema)) shapesIn(part, found);
  }
  return found;
}

function table(rows) {
  const head = element("tr", {}, ...["name", "type", ""].map((text) => element("th", {}, text)));
  const body = rows.map(([name, type, about]) =>
    element("tr", {}, element("td", {}, element("code", {}, name)), element("td", { class: "dim" }, type), element("td", {}, about)),
  );
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

function shapeTable(name) {
  const shape = spec.components.schemas[name];
  const required = new Set(shape.required ?? []);
  const rows = Object.entries(shape.properties ?? {}).map(([field, schema]) => [
    required.has(field) ? field : `${field}?`, typeText(schema), schema.description ?? "",
  ]);
  return element("div", {}, element("h3", {}, name, " ", element("span", { class: "dim" }, shape.description ?? "")), table(rows));
}

function bodyOf(content) {
  const [type, media] = Object.entries(content ?? {})[0] ?? [];
  return { type, schema: media?.schema };
}

/** A command that makes the call, with the least body that it needs. */
function curl(path, method, operation) {
  const words = [`curl -sS${method === "get" ? "" : ` -X ${method.toUpperCase()}`} '${location.origin}${path}'`];
  if (operation.security) words.push("-H 'Authorization: Bearer KEY'");
  const { schema } = bodyOf(operation.requestBody?.content);
  if (schema) {
    const shape = resolve(schema);
    const wanted = shape.required ?? Object.keys(shape.properties ?? {}).slice(0, 1);
    const example = Object.fromEntries(wanted.map((name) => [name, exampleOf(shape.properties[name])]));
    words.push("-H 'Content-Type: application/json'", `-d '${JSON.stringify(example)}'`);
  }
  return words.join(" \\\n  ");
}

function exampleOf(schema) {
  const known = resolve(schema.anyOf?.[0] ?? schema);
  if (known.enum) return known.enum[0];
  const examples = { integer: known.minimum ?? 0, number: 0, boolean: true, array: ["…"], object: {} };
  return examples[known.type] ?? "…";
}

function drawOperation(path, method, operation) {
  const inside = element("div");
  if (operation.description) inside.append(element("p", {}, operation.description));
  if (operation.parameters) {
    inside.append(element("h3", {}, "Parameters"));
    inside.append(table(operation.parameters.map((param) => [
      param.name, typeText(param.schema), param.description ?? (param.in === "path" ? "in the path" : ""),
    ])));
  }
  const shapes = new Set();
  const body = bodyOf(operation.requestBody?.content);
  if (body.schema) {
    inside.append(element("p", {}, element("b", {}, "Body: "), element("code", {}, typeText(body.schema))));
    shapesIn(body.schema, shapes);
  }
  for (const [status, response] of Object.entries(operation.responses)) {
    if (status === "default") continue;
    const answer = bodyOf(response.content);
    const text = answer.schema ? (answer.type === "application/json" ? typeText(answer.schema) : answer.type) : "no body";
    inside.append(element("p", {}, element("b", {}, `${status}: `), element("code", {}, text)));
    shapesIn(answer.schema, shapes);
  }
  for (const name of shapes) inside.append(shapeTable(name));
  inside.append(element("pre", {}, curl(path, method, operation)));
  const title = element("summary", {},
    element("span", { class: `method ${method}` }, method.toUpperCase()),
    element("code", {}, path), " ", element("span", { class: "dim" }, operation.summary),
  );
  const words = `${method} ${path} ${operation.summary} ${[...shapes].join(" ")} ${inside.textContent}`.toLowerCase();
  return { node: element("details", { id: operation.operationId }, title, inside), words };
}

function draw() {
  document.getElementById("version").textContent = spec.info.version;
  document.getElementById("about").textContent = spec.info.description;
  const groups = spec.tags.map(({ name }) => {
    const drawn = [];
    for (const [path, methods] of Object.entries(spec.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (operation.tags.includes(name)) drawn.push(drawOperation(path, method, operation));
      }
    }
    return { section: element("section", {}, element("h2", {}, name), ...drawn.map(({ node }) => node)), drawn };
  });
  document.getElementById("operations").replaceChildren(...groups.map(({ section }) => section));
  document.getElementById("filter").addEventListener("input", ({ target }) => {
    const wanted = target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { section, drawn } of groups) {
      for (const { node, words } of drawn) node.hidden = !wanted.every((word) => words.includes(word));
      section.hidden = drawn.every(({ node }) => node.hidden);
    }
  });
  const asked = location.hash && document.getElementById(location.hash.slice(1));
  if (asked) asked.open = true;
}

fetch("docs/openapi.json")
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`HTTP ${response.status}`))))
  .then((found) => {
    spec = found;
    draw();
  })
  .catch((error) => {
    document.getElementById("operations").textContent = `The description could not be read: ${error.message}`;
  });
