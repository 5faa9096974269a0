"""The sentences and lines of the synthetic corpus of private data (`synthetic_pii.py`), with slots in braces.

A slot named after a type in `PRIVATE` is filled with a value of the person the document is about, and its place is
remembered; every other slot is filled from `WORDS` or with a number made up on the spot, and is nobody's.
"""

PRIVATE = ("name", "email", "phone", "address", "date_of_birth", "social_security_number", "credit_card", "url",
           "twitter", "skype", "credential", "ip_address", "api_key")
"""Types of planted values.  Named as the scorer names them, where it has a detector for them."""

WORDS: dict[str, list[str]] = {
    "product": ["coffee grinder", "desk lamp", "road bike", "tent", "printer", "kettle", "rucksack", "heater", "camera",
                "keyboard", "sewing machine", "water filter", "bookshelf", "lawn mower", "rice cooker", "monitor",
                "suitcase", "drill", "ladder", "violin", "telescope", "sofa", "toaster", "microphone", "garden hose"],
    "part": ["lid", "hinge", "cable", "handle", "battery", "zip", "filter", "lens", "spring", "switch", "pump", "belt",
             "motor", "hose", "manual", "stand", "adapter", "screen", "pedal", "seal"],
    "problem": ["does not start", "makes a loud noise", "arrived broken", "leaks at the bottom", "smells of plastic",
                "stops after a minute", "is the wrong colour", "has a scratch", "overheats", "came without screws",
                "rattles", "gets stuck", "is smaller than shown", "lost its label", "will not close"],
    "place": ["the warehouse", "the shop in the old town", "the second floor", "the main office", "the north gate",
              "the library", "the harbour", "room 212", "the front desk", "the car park", "the laboratory",
              "the museum"],
    "weekday": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "month": ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
              "November", "December"],
    "department": ["billing", "support", "logistics", "returns", "sales", "the workshop", "accounts", "reception"],
    "mood": ["glad", "sorry", "surprised", "relieved", "puzzled", "a little worried", "grateful", "not sure", "happy"],
    "weather": ["rain", "snow", "fog", "a storm", "the heat", "strong wind", "ice on the roads"],
    "animal": ["dog", "cat", "parrot", "horse", "rabbit", "hamster", "goat"],
    "service": ["auth", "mailer", "billing", "search", "gateway", "cache", "scheduler", "upload", "report", "session"],
    "level": ["INFO", "INFO", "INFO", "DEBUG", "WARN", "ERROR"],
    "state": ["open", "waiting", "solved", "closed", "reopened"],
    "priority": ["low", "normal", "high", "urgent"],
    "subject": ["Your order", "A question", "The delivery", "Return of goods", "Invoice", "Appointment", "My account",
                "Complaint", "Change of plans", "Warranty", "The meeting", "Subscription"],
    "reply": ["Sure.", "One moment please.", "Thanks for waiting.", "I see.", "No problem.", "Let me check.", "Great.",
              "Of course.", "That makes sense.", "Sorry about that.", "All right.", "Perfect."],
}

# ---- letters ---------------------------------------------------------------------------------------------------------

LETTER_PLAIN = [
    "Thank you for your message of {weekday}.", "I am {mood} about the {product} I bought in {month}.",
    "The {part} of my {product} {problem}.", "We had {weather} here for most of {month}.",
    "My neighbour has the same {product} and says that the {part} never gave any trouble.",
    "It was delivered to {place} at {time}, which was later than we had agreed.",
    "The bill says {amount}, but the price on your page was {amount}.",
    "Please let me know whether {weekday} would suit you.", "Our {animal} is afraid of it.",
    "I have read the manual twice and could not find the {part} anywhere in it.",
    "The people in {department} were friendly and sent me to {department}.",
    "Because of {weather} the train was {count} minutes late.", "The order number is {order}.",
    "I would like to keep the {product} if the {part} can be replaced.",
    "We are {mood} to hear that the {product} works again.", "A new {part} costs {amount} and takes {count} days.",
    "There is no hurry, since we are away until {weekday}.", "The meeting at {place} has been moved to {weekday}.",
    "In {month} we will close {place} for {count} weeks.", "Could you send somebody from {department} to look at it?",
    "I am {mood} that it took so long.", "The {product} stood in {place} for {count} days.",
    "Version {version} of the software works, the later one does not.",
    "If the {part} {problem}, please do not open it yourself.", "Last {month} I paid {amount} for the same thing.",
    "My {animal} likes to sleep on the {product}.", "It weighs {count} pounds and does not fit through the door.",
    "That is all I can say about the {product} for now.", "You can keep the {part}.",
]
LETTER_PRIVATE = {
    "email": ["Please write to {email}.", "You can reach me at {email} at any time.", "My address is {email} now.",
              "An answer to {email} is enough.", "The old mail address {email} still works."],
    "phone": ["Please call me on {phone} after {time}.", "My number is {phone}.",
              "I can be reached under {phone} on {weekday}.", "If nobody opens, ring {phone}."],
    "address": ["Please send the {part} to {address}.", "We have moved to {address}.", "I live at {address}.",
                "The {product} should go to {address} instead."],
    "date_of_birth": ["I was born on {date_of_birth}.", "My date of birth is {date_of_birth}.",
                      "DOB: {date_of_birth}."],
    "social_security_number": ["My social security number is {social_security_number}.",
                               "For the form: SSN {social_security_number}."],
    "credit_card": ["Please charge my card {credit_card} with {amount}.",
                    "The card number is {credit_card} as before."],
    "url": ["There are pictures of it on {url} now.", "More about it is at {url} for you to see."],
    "twitter": ["I wrote about it as {twitter} too.", "Many people asked {twitter} the same."],
    "skype": ["On Skype I am {skype} most evenings."],
    "credential": ["For the shop use {credential}\n"],
}
OPENINGS = ["Dear {name},\n\n", "Dear {name},\n\n", "Dear Sir or Madam,\n\n", "Dear customer,\n\n"]
OPENINGS_PLAIN = ["Dear Sir or Madam,\n\n", "Dear customer,\n\n", "Dear team,\n\n", "Dear friends,\n\n"]
CLOSINGS = ["Sincerely,\n{name}\n", "Best wishes,\n{name}\n", "Kind regards,\n{name}\n"]
CLOSINGS_PLAIN = ["Sincerely,\nyour customer\n", "Best wishes,\nthe team in {department}\n", "With thanks.\n"]
SIGNATURES = ["Phone: {phone}\n", "E-mail: {email}\n", "{url}\n", "{twitter}\n", "{address}\n"]

# ---- tickets ---------------------------------------------------------------------------------------------------------

TICKET_FIELDS = ["Status: {state}\n", "Priority: {priority}\n", "Product: {product}\n", "Order: {order}\n",
                 "Department: {department}\n", "Opened: {weekday}, {time}\n", "Amount: {amount}\n",
                 "Version: {version}\n"]
TICKET_PRIVATE = {
    "name": ["Customer: {name}\n", "Reported by: {name}\n"], "email": ["Contact: {email}\n", "E-mail: {email}\n"],
    "phone": ["Phone: {phone}\n", "Call back: {phone}\n"], "address": ["Ship to: {address}\n", "Address: {address}\n"],
    "date_of_birth": ["Date of birth: {date_of_birth}\n", "DOB: {date_of_birth}\n"],
    "social_security_number": ["SSN: {social_security_number}\n"], "credit_card": ["Card: {credit_card}\n"],
    "url": ["Link: {url}\n"], "twitter": ["Twitter: {twitter}\n"], "skype": ["Skype: {skype}\n"],
    "credential": ["Login details: {credential}\n"], "ip_address": ["Last seen from: {ip_address}\n"],
    "api_key": ["API key: {api_key}\n"],
}
TICKET_PLAIN = [
    "The {product} {problem}.\n", "Customer says the {part} {problem} since {weekday}.\n",
    "Sent a new {part} from {place}.\n", "Waiting for {department}.\n", "Refund of {amount} agreed.\n",
    "Tried version {version}, no change.\n", "Picked up at {place} on {weekday}.\n", "Needs a new {part}.\n",
    "Not covered: bought in {month}, {count} months ago.\n", "Passed on to {department}.\n", "Works again.\n",
    "Same as order {order}.\n", "Delayed by {weather}.\n", "Asked twice, no answer.\n",
]

# ---- logs ------------------------------------------------------------------------------------------------------------

LOG_PLAIN = [
    "{stamp} {level} {service}: started in {count} ms\n", "{stamp} {level} {service}: {count} jobs waiting\n",
    "{stamp} {level} {service}: version {version} loaded\n", "{stamp} {level} {service}: retry {count} of 50\n",
    "{stamp} {level} {service}: order {order} stored\n",
    "{stamp} {level} {service}: cache is full, {count} items dropped\n",
    "{stamp} {level} {service}: payment of {amount} accepted\n", "{stamp} {level} {service}: timeout after {count} s\n",
    "{stamp} {level} {service}: nothing to do\n", "{stamp} {level} {service}: report for {month} written\n",
]
LOG_PRIVATE = {
    "email": ["{stamp} {level} mailer: sent message to {email}\n", "{stamp} WARN mailer: {email} bounced\n"],
    "ip_address": ["{stamp} {level} auth: request from {ip_address}\n", "{stamp} WARN gateway: blocked {ip_address}\n"],
    "credential": ["{stamp} DEBUG auth: {credential}\n"], "api_key": ["{stamp} DEBUG gateway: token={api_key}\n"],
    "url": ["{stamp} {level} search: fetched {url} in {count} ms\n"],
    "name": ["{stamp} {level} session: opened for {name}\n"],
    "phone": ["{stamp} {level} mailer: text sent to {phone}\n"],
    "credit_card": ["{stamp} ERROR billing: card {credit_card} declined\n"],
    "social_security_number": ["{stamp} ERROR report: row with ssn {social_security_number} is damaged\n"],
}

# ---- chats -----------------------------------------------------------------------------------------------------------

CHAT_PLAIN = [
    "customer: my {product} {problem}\n", "agent: {reply}\n", "agent: {reply} Which {product} is it?\n",
    "customer: the one from {month}, order {order}\n", "agent: I can offer {amount} back.\n",
    "customer: that would be fine\n", "customer: I am {mood} about it\n",
    "agent: {reply} It will leave {place} on {weekday}.\n",
    "customer: is {weekday} possible?\n", "agent: Only after {time}, because of {weather}.\n",
    "customer: ok thanks\n", "agent: {reply} Anything else?\n", "customer: no, that is all\n",
    "customer: the {part} looks different in version {version}\n", "agent: {department} will have a look.\n",
]
CHAT_PRIVATE = {
    "name": ["customer: my name is {name}\n", "customer: it is under {name}\n"],
    "email": ["agent: Where shall we write to?\ncustomer: {email}\n", "customer: mail me at {email} please\n"],
    "phone": ["agent: Can we call you?\ncustomer: yes, {phone}\n", "customer: call {phone}\n"],
    "address": ["customer: send it to {address}\n", "agent: And the address?\ncustomer: {address}\n"],
    "date_of_birth": ["agent: When were you born?\ncustomer: {date_of_birth}\n"],
    "social_security_number": ["agent: The last thing is your social security number.\n"
                               "customer: {social_security_number}\n"],
    "credit_card": ["agent: Which card?\ncustomer: {credit_card}\n"], "twitter": ["customer: I am {twitter} there\n"],
    "skype": ["customer: we can talk on skype, I am {skype}\n"], "url": ["customer: see {url}\n"],
    "credential": ["customer: {credential}\n"],
}
