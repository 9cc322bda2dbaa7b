// The official OpenAI client for Node.js against a scheduler: prints, as JSON, what each call gave.
// Usage: node run.mjs BASE_URL KEY
import OpenAI, { toFile } from 'openai'

const [baseURL, apiKey] = process.argv.slice(2)
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 })
const messages = [{ role: 'user', content: 'How are you?' }]
const chat = (model, options = {}, on = client) => on.chat.completions.create({ model, messages }, options)
const sound = new Uint8Array(100_000).map((_, at) => at % 256)

const collect = async (stream) => {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  return chunks
}

// What was got before a stream broke belongs to the answer.
const readUntilItBreaks = async () => {
  const got = []
  try {
    const stream = await client.chat.completions.create({ model: 'breaks', messages, stream: true })
    for await (const chunk of stream) got.push(chunk.choices[0].delta.content ?? null)
    return { got }
  } catch (error) {
    return { got, ...told(error) }
  }
}

const told = (error) => ({
  class: error.constructor.name,
  isAPIError: error instanceof OpenAI.APIError,
  status: error.status ?? null,
  code: error.code ?? null,
  param: error.param ?? null,
  type: error.type ?? null,
  message: error.message,
  requestId: error.requestID ?? null,
  retryAfter: error.headers?.get('retry-after') ?? null,
})

const calls = {
  models: async () => (await collect(client.models.list())).map((model) => model.id),
  model: () => client.models.retrieve('embed'),
  chat: async () => {
    const { data, response, request_id } = await chat('chat').withResponse()
    return { data, requestId: request_id, node: response.headers.get('x-scheduler-node') }
  },
  stream: async () =>
    collect(await client.chat.completions.create({
      model: 'chat', messages, stream: true, stream_options: { include_usage: true },
    })),
  completion: () => client.completions.create({ model: 'chat', prompt: 'Once upon a time' }),
  floats: () => client.embeddings.create({ model: 'embed', input: ['one'], encoding_format: 'float' }),
  embedding: () => client.embeddings.create({ model: 'embed', input: ['one'] }),
  transcription: async () =>
    client.audio.transcriptions.create({ model: 'whisper', file: await toFile(sound, 'talk.wav') }),
  many: async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, () => chat('chat')))
    return answers.map((answer) => answer.choices[0].message.content)
  },
  unknownModel: () => chat('gpt-4', { headers: { 'X-Request-Id': 'node-mine-1' } }),
  unknownModelRetrieved: () => client.models.retrieve('gpt-4'),
  wrongKey: () => chat('chat', {}, client.withOptions({ apiKey: 'sk-wrong' })),
  noModel: () => chat(''),
  queueFull: () => chat('full'),
  queueTimeout: () =>
    chat('busy', { maxRetries: 5, headers: { 'X-Request-Id': 'node-too-long', 'X-Queue-Timeout': '0.1' } }),
  brokenStream: readUntilItBreaks,
  brokenAnswer: () => client.embeddings.create({ model: 'breaks', input: ['one'] }),
  repeated: () => chat('fails-once', { maxRetries: 1 }),
}

const results = {}
for (const [name, call] of Object.entries(calls)) {
  try {
    results[name] = { value: await call() }
  } catch (error) {
    results[name] = { error: told(error) }
  }
}
console.log(JSON.stringify(results))
