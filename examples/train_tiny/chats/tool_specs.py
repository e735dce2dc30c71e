"""The hand-written tools: what they take, how people ask for them, what they return, how the answer says it.

A parameter is `name:kind` or `name:type:kind`: the kind says how its value is drawn (tool_values.py), its type follows
from the kind. An ask names the parameters it gives in braces; those are the arguments of the call. `=>` in an ask adds
arguments that the words imply. A result is JSON with drawn fields `name:kind`, the answer may use arguments and fields.
"""

# ruff: noqa: E501 - tables of sentences read better unbroken
from __future__ import annotations

from typing import NamedTuple


class Spec(NamedTuple):
    """A tool as written below."""

    name: str
    description: str
    parameters: str
    asks: tuple[str, ...]
    result: str
    answer: str


def _spec(name: str, description: str, parameters: str, asks: str, result: str, answer: str) -> Spec:
    return Spec(name, description, parameters, tuple(asks.split(" | ")), result, answer)


SPECS = (
    _spec("get_weather", "Get the current weather in a city.", "city:city unit:temperature_unit",
          "What is the weather in {city}? | How is the weather in {city} today? | Weather in {city} in {unit}, please. | "
          "Is it raining in {city}? | I am going to {city}. What is the weather like there? | Tell me the weather in {city}. | "
          "What is the weather in {city} in degrees {unit}?",
          "temperature:degrees condition:condition",
          "It is {temperature} degrees and {condition} in {city}."),
    _spec("add_numbers", "Add two numbers.", "a:int b:int",
          "Add {a} and {b} with the tool. | Use the tool to add {a} and {b}. | What is {a} plus {b}? Use a tool. | "
          "Please add {a} to {b} with your tool.", "sum:int", "The sum is {sum}."),
    _spec("search_web", "Search the web.", "query:topic max_results:small",
          "Search the web for {query}. | Look up {query} on the web. | Find {max_results} pages about {query}. | "
          "Please search for {query}. | What does the web say about {query}? | Google {query} for me.",
          "title:title url:url", "The first result is {title} at {url}."),
    _spec("read_file", "Read a file.", "path:path",
          "Read the file {path}. | What is in {path}? | Show me {path}. | Open {path} and tell me what it says. | "
          "Please read {path} for me. | What does {path} contain?", "content:phrase",
          "The file {path} says: {content}."),
    _spec("write_file", "Write text to a file.", "path:path content:phrase",
          'Write "{content}" to {path}. | Save the text "{content}" in the file {path}. | Create {path} with "{content}". | '
          'Please write "{content}" into {path}.', "bytes:small", "I wrote {bytes} bytes to {path}."),
    _spec("run_command", "Run a shell command.", "command:command",
          "Run {command}. | Run the command {command}. | Execute {command} in the shell. | What does {command} print? | "
          "Please run {command} for me.", "exit_code:zero output:phrase",
          "The command {command} printed: {output}."),
    _spec("list_directory", "List the files in a directory.", "path:folder",
          "List the files in {path}. | What is in the folder {path}? | Show me the directory {path}. | Which files are in {path}?",
          "files:files", "The directory {path} holds {files}."),
    _spec("send_email", "Send an email.", "to:email subject:phrase body:phrase",
          'Send an email to {to} with the subject "{subject}". | Email {to}: subject "{subject}", text "{body}". | '
          'Write to {to} with the subject "{subject}" and the body "{body}".', "message_id:int",
          "I sent the email to {to}."),
    _spec("set_timer", "Set a timer.", "minutes:small label:noun",
          "Set a timer for {minutes} minutes. | Set a {minutes} minute timer for the {label}. | Timer: {minutes} minutes. | "
          "Remind me about the {label} in {minutes} minutes.", "timer_id:int",
          "The timer for {minutes} minutes is set."),
    _spec("convert_currency", "Convert an amount of money.", "amount:int from:currency to:currency",
          "Convert {amount} {from} to {to}. | How much is {amount} {from} in {to}? | What are {amount} {from} worth in {to}? | "
          "Change {amount} {from} into {to}.", "result:int", "{amount} {from} are {result} {to}."),
    _spec("get_time", "Get the local time in a city.", "city:city",
          "What time is it in {city}? | What is the time in {city}? | Tell me the local time in {city}. | "
          "How late is it in {city}?", "time:time", "It is {time} in {city}."),
    _spec("create_event", "Create an event in the calendar.", "title:phrase date:date time:time",
          'Create an event "{title}" on {date} at {time}. | Put "{title}" in my calendar on {date} at {time}. | '
          'Schedule "{title}" for {date}. | Add "{title}" to the calendar on {date} at {time}.', "event_id:int",
          'I created the event "{title}" on {date}.'),
    _spec("translate", "Translate a text.", "text:phrase language:language",
          'Translate "{text}" to {language}. | How do you say "{text}" in {language}? | What is "{text}" in {language}? | '
          'Please translate "{text}" into {language}.', "translation:foreign",
          'In {language} it is "{translation}".'),
    _spec("get_stock_price", "Get the price of a stock.", "symbol:symbol",
          "What is the price of {symbol}? | How is the stock {symbol} doing? | Stock price of {symbol}? | "
          "What does a share of {symbol} cost?", "price:price", "The price of {symbol} is {price}."),
    _spec("play_music", "Play a song.", "title:phrase artist:person",
          'Play "{title}" by {artist}. | Play the song "{title}". | I want to hear "{title}" by {artist}. | '
          'Put on "{title}".', "status:playing", 'Now playing "{title}".'),
    _spec("grep", "Search for a pattern in files.", "pattern:word path:folder",
          "Search for {pattern} in {path}. | grep {pattern} in {path} | Find {pattern} in the folder {path}. | "
          "Where does {pattern} occur in {path}?", "file:path line:small",
          "I found {pattern} in {file} on line {line}."),
    _spec("edit_file", "Replace text in a file.", "path:path old:word new:word",
          "In {path}, replace {old} with {new}. | Change {old} to {new} in {path}. | Edit {path}: replace {old} by {new}.",
          "replacements:small", "I replaced {old} with {new} in {path}, {replacements} times."),
    _spec("turn_on_light", "Turn on the light in a room.", "room:room",
          "Turn on the light in the {room}. | Lights on in the {room}. | Switch on the {room} light. | "
          "It is dark in the {room}. Turn on the light.", "status:on", "The light in the {room} is on."),
    _spec("set_light", "Switch a light and set its brightness.", "room:room on:bool brightness:percent",
          "Switch the {room} light on. => on=true | Switch the {room} light off. => on=false | "
          "Set the {room} light to {brightness} percent. => on=true | Turn off the light in the {room}. => on=false",
          "status:ok", "The light in the {room} is set."),
    _spec("book_table", "Book a table in a restaurant.", "restaurant:restaurant people:few time:time",
          "Book a table at {restaurant} for {people} people at {time}. | Reserve a table for {people} at {restaurant} at {time}. | "
          "We are {people} people. Book {restaurant} at {time}.", "confirmation:code",
          "Your table at {restaurant} is booked. The confirmation is {confirmation}."),
    _spec("get_population", "Get the population of a city.", "city:city",
          "How many people live in {city}? | What is the population of {city}? | Population of {city}?",
          "population:large", "{city} has {population} inhabitants."),
    _spec("get_distance", "Get the distance between two cities.", "origin:city destination:city",
          "How far is it from {origin} to {destination}? | What is the distance from {origin} to {destination}? | "
          "Distance between {origin} and {destination}?", "kilometres:int",
          "It is {kilometres} kilometres from {origin} to {destination}."),
    _spec("find_flight", "Find a flight.", "origin:city destination:city date:date",
          "Find a flight from {origin} to {destination} on {date}. | I want to fly from {origin} to {destination} on {date}. | "
          "Is there a flight from {origin} to {destination}?", "flight:code departure:time",
          "Flight {flight} to {destination} leaves at {departure}."),
    _spec("delete_file", "Delete a file.", "path:path",
          "Delete {path}. | Remove the file {path}. | Please delete the file {path}. | I do not need {path} any more. Delete it.",
          "status:ok", "I deleted {path}."),
    _spec("copy_file", "Copy a file.", "source:path target:path",
          "Copy {source} to {target}. | Make a copy of {source} named {target}. | Please copy the file {source} to {target}.",
          "status:ok", "I copied {source} to {target}."),
    _spec("move_file", "Move or rename a file.", "source:path target:path overwrite:bool",
          "Move {source} to {target}. | Rename {source} to {target}. | "
          "Move {source} to {target} and overwrite it. => overwrite=true", "status:ok",
          "I moved {source} to {target}."),
    _spec("count_words", "Count the words of a text.", "text:phrase",
          'How many words are in "{text}"? Use the tool. | Count the words of "{text}" with the tool.', "count:few",
          "The text has {count} words."),
    _spec("get_contact", "Look up a contact.", "name:person",
          "What is the email address of {name}? | Look up {name} in my contacts. | How can I reach {name}? | "
          "Find the contact {name}.", "email:email phone:phone", "The email address of {name} is {email}."),
    _spec("add_contact", "Add a contact.", "name:person phone:phone",
          "Add {name} to my contacts, phone {phone}. | Save the number {phone} for {name}. | New contact: {name}, {phone}.",
          "contact_id:int", "I added {name} to your contacts."),
    _spec("send_message", "Send a text message.", "to:person text:phrase",
          'Send {to} the message "{text}". | Text {to}: "{text}" | Tell {to} "{text}". | Write "{text}" to {to}.',
          "status:sent", "I sent the message to {to}."),
    _spec("get_exchange_rate", "Get an exchange rate.", "base:currency target:currency",
          "What is the exchange rate from {base} to {target}? | {base} to {target} rate? | How many {target} do I get for one {base}?",
          "rate:price", "One {base} is {rate} {target}."),
    _spec("add_to_list", "Add items to a list.", "list:list_name items:items",
          "Add {items} to the {list} list. | Put {items} on my {list} list. | My {list} list needs {items}.",
          "length:small", "The {list} list has {length} items now."),
    _spec("get_list", "Show the items of a list.", "list:list_name",
          "What is on my {list} list? | Show me the {list} list. | Read me the {list} list.", "items:items",
          "Your {list} list holds {items}."),
    _spec("set_thermostat", "Set the temperature of a room.", "room:room temperature:warm",
          "Set the {room} to {temperature} degrees. | Make it {temperature} degrees in the {room}. | "
          "Heat the {room} to {temperature} degrees.", "status:ok",
          "The {room} is set to {temperature} degrees."),
    _spec("set_alarm", "Set an alarm.", "time:time repeat:bool",
          "Wake me at {time}. | Set an alarm for {time}. | Set an alarm for {time} every day. => repeat=true | "
          "Alarm at {time}, only once. => repeat=false", "alarm_id:int", "The alarm is set for {time}."),
    _spec("get_news", "Get the latest news on a topic.", "topic:topic",
          "What is new about {topic}? | Give me the news on {topic}. | Any news about {topic}?", "headline:title",
          "The latest headline is: {headline}."),
    _spec("calculate_area", "Area of a rectangle.", "width:int height:int",
          "What is the area of a rectangle {width} wide and {height} high? | Area of a field of {width} by {height}? | "
          "Compute the area: width {width}, height {height}.", "area:int", "The area is {area}."),
    _spec("roll_dice", "Roll dice.", "count:few sides:sides",
          "Roll {count} dice with {sides} sides. | Roll {count} dice. | Throw {count} dice with {sides} sides each.",
          "total:small", "The dice show {total} in total."),
    _spec("random_number", "Draw a random number.", "low:small high:int",
          "Give me a random number between {low} and {high}. | Draw a number from {low} to {high}. | "
          "Pick a random number from {low} to {high}.", "number:small", "The number is {number}."),
    _spec("create_user", "Create a user account.", "username:word email:email admin:bool",
          "Create a user {username} with the email {email}. | New account: {username}, {email}. | "
          "Make an admin account {username} with {email}. => admin=true", "user_id:int",
          "The user {username} was created with the id {user_id}."),
    _spec("track_package", "Track a package.", "number:code",
          "Where is my package {number}? | Track {number}. | What is the status of the package {number}?", "place:city",
          "The package {number} is in {place}."),
    _spec("define_word", "Look up a word in the dictionary.", "word:word",
          "Look up {word} in the dictionary. | What does the dictionary say about {word}? | Define {word} with the tool.",
          "definition:phrase", "The dictionary says: {definition}."),
    _spec("order_food", "Order food.", "dish:dish quantity:few",
          "Order {quantity} portions of {dish}. | I want {quantity} times {dish}. | Get me some {dish}. | Order {dish}.",
          "minutes:small", "Your {dish} arrives in {minutes} minutes."),
    _spec("query_database", "Count the rows of a table where a column has a value.",
    "table:noun column:word value:word",
          "How many rows of {table} have {column} {value}? | Count the rows of the table {table} where {column} is {value}.",
          "rows:int", "{rows} rows match."),
    _spec("resize_image", "Resize an image.", "path:image width:int height:int",
          "Resize {path} to {width} by {height}. | Make {path} {width} pixels wide and {height} high. | "
          "Change the size of {path} to {width} x {height}.", "status:ok", "I resized {path}."),
    _spec("git_commit", "Commit the changes with a message.", "message:phrase",
          'Commit with the message "{message}". | Make a commit: "{message}". | Commit my changes as "{message}".',
          "hash:hash", "The commit is {hash}."),
    _spec("http_get", "Fetch a web page.", "url:url timeout:few",
          "Fetch {url}. | Get the page {url}. | Download {url} with a timeout of {timeout} seconds. | What is at {url}?",
          "status:http title:title", "The page {url} has the title {title}."),
)  # fmt: skip
